"""One limit of a caller and its present use, as `/admin/limits` shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LimitUse:
    """`limit` names the limit in words. Amounts of money are in nanos (`core/money.py`)."""

    limit: str
    measure: str
    tier: str | None
    amount: int
    used: int
    remaining: int
    resets_in_s: float
