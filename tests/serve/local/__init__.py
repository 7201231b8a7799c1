"""One service for all of this: a package, because pytest scopes fixtures by packages."""
