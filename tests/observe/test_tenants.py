"""Metrics by tenant: bounded, and only of callers that have proved who they are."""

from __future__ import annotations

import pytest
from ray.serve.metrics import Counter, Gauge

from serve_app.core.call import CacheResult, Endpoint, Record, Usage
from serve_app.core.caller import Caller
from serve_app.core.money import NANOS
from serve_app.observe.tenants import OTHERS, BudgetMetrics, TenantMetrics, TenantNames

Told = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What Ray is given, in order."""
    told: Told = []

    def note(metric: Counter | Gauge, value: float, tags: dict[str, str]) -> None:
        told.append((str(metric.info["name"]).removeprefix("serve_app_"), value, tags))

    monkeypatch.setattr(Counter, "inc", note)
    monkeypatch.setattr(Gauge, "set", note)
    return told


def record_of(tenant: str, cache: CacheResult | None = None) -> Record:
    usage = Usage(prompt_tokens=3, completion_tokens=5)
    caller = Caller(tenant)
    return Record(
        "r", Endpoint.CHAT, stream=True, usage=usage, caller=caller, cost=NANOS, cache=cache
    )


def test_calls_tokens_and_cost_of_a_tenant(told: Told) -> None:
    """They go out once."""
    metrics = TenantMetrics()
    metrics.add(record_of("acme"))
    metrics.add(record_of("acme"))
    metrics.flush()
    metrics.flush()
    assert told == [
        ("tenant_calls", 2, {"tenant": "acme", "outcome": "ok"}),
        ("tenant_tokens", 6, {"tenant": "acme", "direction": "in"}),
        ("tenant_tokens", 10, {"tenant": "acme", "direction": "out"}),
        ("tenant_cost", 2, {"tenant": "acme"}),
    ]


def test_a_call_that_the_cache_answered_has_no_tokens(told: Told) -> None:
    """No engine has worked for it."""
    metrics = TenantMetrics()
    metrics.add(record_of("acme", CacheResult.HIT))
    metrics.flush()
    assert [name for name, _, _ in told] == ["tenant_calls", "tenant_cost"]


def test_a_service_without_access_has_no_tenants(told: Told) -> None:
    """Every caller is the same there."""
    metrics = TenantMetrics()
    metrics.add(Record("r", Endpoint.CHAT, stream=True))
    metrics.flush()
    assert told == []


def test_the_number_of_labels_is_bounded() -> None:
    """However many tenants an issuer names."""
    names = TenantNames(2)
    labels = [names.label(tenant) for tenant in ("a", "b", "c", "a", "d")]
    assert labels == ["a", "b", OTHERS, "a", OTHERS]


def test_others_show_the_budget_that_is_spent_most(told: Told) -> None:
    """One label stands for many tenants."""
    spent = {
        ("a", "tokens_per_day"): 0.1,
        ("b", "tokens_per_day"): 0.9,
        ("c", "tokens_per_day"): 0.3,
    }
    BudgetMetrics(lambda: spent, TenantNames(1)).flush()
    assert told == [
        ("budget_used_ratio", 0.1, {"tenant": "a", "budget": "tokens_per_day"}),
        ("budget_used_ratio", 0.9, {"tenant": OTHERS, "budget": "tokens_per_day"}),
    ]
