"""A model directory's files and their sums, as replicas check them."""
