"""Metrics by tenant: what each of them asks for, and how much of its budget is spent.

The names of tenants come from keys, tokens and certificates, and `access` checks their form. The
number of names that become labels is bounded; later tenants share one label.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping

from ray.serve.metrics import Counter, Gauge

from serve_app.core.call import Record
from serve_app.core.caller import ANONYMOUS
from serve_app.core.money import to_units

TENANTS_MAX = 100
"""The tenants of one Router that have a label of their own."""

OTHERS = "(others)"
"""The label of later tenants. No tenant can have this name."""


class TenantNames:
    """Gives the first tenants their own label, and the same label to all others."""

    def __init__(self, tenants_max: int = TENANTS_MAX) -> None:
        self._max = tenants_max
        self._known: set[str] = set()

    def label(self, tenant: str) -> str:
        """The label of a tenant, always the same for the same tenant."""
        if tenant in self._known:
            return tenant
        if len(self._known) >= self._max:
            return OTHERS
        self._known.add(tenant)
        return tenant


class TenantMetrics:
    """Counts the calls of callers that have proved who they are."""

    def __init__(self, names: TenantNames | None = None) -> None:
        self._names = names or TenantNames()
        self._calls = Counter(
            "serve_app_tenant_calls",
            "Calls that have ended, by tenant and outcome.",
            ("tenant", "outcome"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )
        self._tokens = Counter(
            "serve_app_tenant_tokens",
            "Tokens of a tenant's calls as the engines counted them.",
            ("tenant", "direction"),  # type: ignore[arg-type]  # as above
        )
        self._cost = Counter(
            "serve_app_tenant_cost", "Cost of a tenant's calls, in units of `prices`.", ("tenant",)
        )
        self._ended: Tally[tuple[str, str]] = Tally()
        self._used: Tally[tuple[str, str]] = Tally()
        self._cost_nanos: Tally[str] = Tally()

    def add(self, record: Record) -> None:
        """Note one ended call."""
        if record.caller is ANONYMOUS:
            return
        tenant = self._names.label(record.caller.tenant)
        self._ended[tenant, record.outcome.value] += 1
        if record.cache is None or not record.cache.free:
            self._used[tenant, "in"] += record.usage.prompt_tokens or 0
            self._used[tenant, "out"] += record.usage.completion_tokens or 0
        self._cost_nanos[tenant] += record.cost or 0

    def flush(self) -> None:
        """Hand the growth to Ray."""
        ended, self._ended = self._ended, Tally()
        used, self._used = self._used, Tally()
        costs, self._cost_nanos = self._cost_nanos, Tally()
        for (tenant, outcome), calls in ended.items():
            self._calls.inc(calls, {"tenant": tenant, "outcome": outcome})
        for (tenant, direction), tokens in used.items():
            if tokens:
                self._tokens.inc(tokens, {"tenant": tenant, "direction": direction})
        for tenant, nanos in costs.items():
            if nanos:
                self._cost.inc(to_units(nanos), {"tenant": tenant})


class BudgetMetrics:
    """Reads about once a second how much of the budgets of a day and a month is spent."""

    def __init__(
        self,
        read: Callable[[], Mapping[tuple[str, str], float]],
        names: TenantNames | None = None,
    ) -> None:
        """`read` returns the spent share by tenant and kind of budget."""
        self._read = read
        self._names = names or TenantNames()
        self._used = Gauge(
            "serve_app_budget_used_ratio",
            "Spent share of the budget that a tenant, its users or its keys are nearest to.",
            ("tenant", "budget"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )

    def flush(self) -> None:
        """Hand the shares to Ray; a budget that is no longer read vanishes by itself."""
        shares: dict[tuple[str, str], float] = {}
        for (tenant, budget), share in self._read().items():
            at = (self._names.label(tenant), budget)
            shares[at] = max(share, shares.get(at, 0.0))
        for (tenant, budget), share in shares.items():
            self._used.set(share, {"tenant": tenant, "budget": budget})
