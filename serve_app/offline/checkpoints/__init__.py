"""Check a model directory before it is trusted, and write a safe copy; nothing is unpickled."""
