"""Names from before the packages moved; they stand in users' files."""
