"""What a call costs, from the prices in the config and the tokens that the engine counted.

An amount of money is an integer of nanos, 1e-9 of the currency's unit, so that sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.call import Usage

NANOS = 1_000_000_000
"""Nanos in one unit of the currency."""
NANOS_PER_PRICE = 1000
"""Nanos a token of a price of one unit a million tokens."""


@dataclass(frozen=True, slots=True)
class Price:
    """Nanos a token. `cached_input` is for tokens that the engine's prefix cache held."""

    input: int
    cached_input: int
    output: int

    def cost(self, usage: Usage) -> int:
        """The cost of the tokens of `usage` in nanos; counts that are not known cost nothing."""
        prompt = usage.prompt_tokens or 0
        cached = min(usage.cached_tokens or 0, prompt)
        output = (usage.completion_tokens or 0) * self.output
        return (prompt - cached) * self.input + cached * self.cached_input + output


FREE = Price(0, 0, 0)


def to_units(nanos: int) -> float:
    """An amount in units of the currency, for people and metrics."""
    return nanos / NANOS
