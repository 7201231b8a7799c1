"""Faults of the embedded default, on one service behind HAProxy."""
