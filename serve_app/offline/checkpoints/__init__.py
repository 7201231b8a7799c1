"""Checking a model directory before it is trusted, and making a safe one; nothing is unpickled."""
