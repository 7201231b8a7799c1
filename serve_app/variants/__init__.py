"""Variants of a tier: shares of its calls, shadows, and the automatic rollback."""
