"""The embedded default, one service for all of it: a package, as pytest scopes fixtures by these."""
