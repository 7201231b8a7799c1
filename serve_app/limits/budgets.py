"""How much of the budgets of a day and a month is spent, from what calls see anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serve_app.limits.limit import Limit, Standing
from serve_app.limits.windows import LimitWindow

BUDGETS_MAX = 1000
"""The budgets that one Router remembers; there are at most four a tenant."""

LIMITS_MAX = 100
"""The limits of one budget that are remembered, the most spent ones."""

NAMES = {LimitWindow.DAY: "day", LimitWindow.MONTH: "month"}


class Budgets:
    """The spent share of each tenant's budgets, by the last call that saw them.

    Limits of a tenant, of its users and of its keys are one budget here: the one that is spent most
    counts, so that the number of budgets does not grow with users and keys.
    """

    def __init__(self, budgets_max: int = BUDGETS_MAX, limits_max: int = LIMITS_MAX) -> None:
        self._max = budgets_max
        self._limits_max = limits_max
        self._seen: dict[tuple[str, str], dict[str, tuple[float, int]]] = {}

    def note(self, tenant: str, seen: Iterable[tuple[Limit, Standing]], now_ms: int) -> None:
        """A call of a tenant has seen these limits."""
        for limit, standing in seen:
            name = NAMES.get(limit.window)
            if name is not None and limit.amount:
                budget = (tenant, f"{limit.measure.value}_per_{name}")
                ends_ms = now_ms + standing.reset_ms
                self._put(budget, limit.key, standing.used / limit.amount, ends_ms)

    def _put(self, budget: tuple[str, str], key: str, share: float, ends_ms: int) -> None:
        shares = self._seen.get(budget)
        if shares is None:
            if len(self._seen) >= self._max:
                return
            shares = self._seen[budget] = {}
        if key not in shares and len(shares) >= self._limits_max:
            del shares[min(shares, key=lambda known: shares[known][0])]
        shares[key] = (share, ends_ms)

    def spent(self, now_ms: int) -> Mapping[tuple[str, str], float]:
        """The spent share by tenant and kind of budget; a budget that has begun anew is left
        out."""
        for budget, shares in list(self._seen.items()):
            for key in [key for key, (_, ends_ms) in shares.items() if ends_ms <= now_ms]:
                del shares[key]
            if not shares:
                del self._seen[budget]
        return {
            budget: max(share for share, _ in shares.values())
            for budget, shares in self._seen.items()
        }
