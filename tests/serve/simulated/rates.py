"""How fast the simulated engine is."""

from __future__ import annotations

PREFILL_TOKENS_PER_S = 20_000.0
STEP_S = 0.02
CALLS_MAX = 64
"""Assumed: a token takes a step, whatever the batch, and so many calls fill the KV cache. The tests
look at where replicas are and how many, not at times."""
