"""A Router's side of the tiers: places on replicas, and plain HTTP to their engines."""
