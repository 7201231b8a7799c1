"""From the config of a Router to its limiter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.assemble import Plan, StepsOwner, assemble
from serve_app.config.app import AppConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.limits.build import build, needs
from serve_app.limits.limiter import CallerLimiter
from tests.limits.samples import ACME, ROUTE, call_of, record_of
from tests.redis_server import redis_url

__all__ = ["redis_url"]

RULE = {"per": "tenant", "tokens_per_min": 1000}
APP = AppConfig.model_validate(
    {"tiers": [{"name": "fast", "model_id": "demo-fast", "engine": {"max_model_len": 100}}]}
)


def plan_of(store: dict[str, Any], **more: Any) -> Plan:
    limits = {"rules": [RULE], "store": store, **more.pop("limits", {})}
    return Plan(APP, RuntimeConfig.model_validate({"limits": limits, **more}), "router-1")


async def test_the_configured_limiter_counts_in_redis(redis_url: str) -> None:
    """Whole: from the YAML's keys to the counters and back."""
    plan = plan_of({"redis": {"url": redis_url}, "deadline_s": 10}, deadlines={"total_s": 60})
    steps = StepsOwner(plan)
    assert isinstance(steps.steps.limiter, CallerLimiter)
    steps.start()
    held = await steps.steps.limiter.reserve(call_of(), record_of(), ROUTE)
    held.settle(record_of(7, 5))
    await steps.close()
    again = assemble(plan).limiter
    assert again is not None
    again.start()
    (use,) = await again.describe(ACME)
    assert (use.limit, use.used, use.remaining) == (
        "1000 tokens per minute for this tenant",
        12,
        988,
    )
    await again.close()


def test_a_router_without_rules_has_no_limiter() -> None:
    """The Router's own bounds are no limits of callers."""
    plan = Plan(APP, RuntimeConfig.model_validate({"limits": {"calls_max": 5}}), "router-1")
    assert needs(plan) is None
    assert assemble(plan).limiter is None


def test_a_limiter_stays_while_its_config_stays() -> None:
    """Also where another key of the same section changes."""
    redis_url = "redis://127.0.0.1:1/0"
    plan = plan_of({"redis": {"url": redis_url}})
    same = plan_of({"redis": {"url": redis_url}}, limits={"calls_max": 7}, leases={"reuse_s": 0.5})
    other = plan_of({"redis": {"url": redis_url}}, limits={"on_failure": "open"})
    assert needs(same) == needs(plan)
    assert needs(other) != needs(plan)


async def test_without_redis_the_owner_is_asked(tmp_path: Path) -> None:
    """Nothing is asked, and no Ray is started, before the first call."""
    limiter = build(plan_of({"directory": str(tmp_path)}))
    await limiter.close()


def test_a_missing_client_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Router does not start, and says what brings the client."""
    monkeypatch.setitem(sys.modules, "serve_app.limits.redis_counters", None)
    with pytest.raises(ValueError, match=r"limits\.store\.redis: .* 'serve-app\[redis\]'"):
        build(plan_of({"redis": {"url": "redis://127.0.0.1:1/0"}}))
