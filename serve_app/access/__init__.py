"""Who asks, and what the caller may do."""
