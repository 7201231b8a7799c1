"""What is told of the moving threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import ray
from ray.serve.metrics import Counter, Gauge

from serve_app.core.load import BreakerState, TierLoad
from serve_app.leases.hedging import HedgeFate
from serve_app.observe.routing import (
    ControlMetrics,
    CostWeightMetrics,
    DriftMetrics,
    HedgeMetrics,
    LoadMetrics,
    RetryMetrics,
)
from serve_app.routing.worth import CostWeights

CONTROL = {
    "serve_app_routing_threshold",
    "serve_app_routing_strong_ratio",
    "serve_app_routing_strong_ratio_target",
}


@dataclass
class State:
    """A controller at some moment."""

    target: float = 0.3
    threshold: float = 0.5
    share: float | None = None


@dataclass
class Scores:
    """A window of scores at some moment."""

    drift: float | None = None
    drifting: bool = False


def test_drift_is_told_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, however often the scores are read in between, and no Ray is started for it."""
    scores = Scores()
    metrics = DriftMetrics(lambda: scores)
    for drifting in (False, True, True, True, False, False):
        scores.drift, scores.drifting = 0.4, drifting
        metrics.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "the scores of the calls drift: drift 0.40",
        "the scores of the calls are steady again: drift 0.40",
    ]
    assert not ray.is_initialized()


def test_too_few_scores_have_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 would say that all is as usual."""
    told = gauges(monkeypatch)
    scores = Scores()
    metrics = DriftMetrics(lambda: scores)
    metrics.flush()
    assert told == {}
    scores.drift = 0.02
    metrics.flush()
    assert told == {"serve_app_routing_drift": 0.02}


def test_the_weights_of_an_objective_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its name; without an objective nothing is told."""
    told: dict[str, float] = {}
    monkeypatch.setattr(
        Gauge, "set", lambda self, value, tags=None: told.update({tags["of"]: value})
    )
    CostWeightMetrics(lambda: None).flush()
    assert not told
    CostWeightMetrics(lambda: CostWeights(money=2.0, time=0.1)).flush()
    assert told == {"money": 2.0, "time": 0.1, "strong": 0.0}


def test_a_tier_that_goes_down_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And once more when it is back; a tier that is up from the start is no news."""
    loads = {"fast": TierLoad(kv_free_ratio=0.5), "strong": TierLoad()}
    metrics = LoadMetrics(lambda: loads)
    closed, opened, half_open = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
    for state in (closed, opened, opened, half_open, half_open, closed, closed):
        loads["strong"] = TierLoad(breaker=state)
        metrics.flush()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["tier strong is down", "tier strong is tried again", "tier strong is back"]
    assert not ray.is_initialized()


def test_a_spent_retry_budget_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And once more when there are retries again."""
    left = [100.0]
    metrics = RetryMetrics(lambda: left[0])
    for now in (100.0, 0.4, 0.2, 3.0, 90.0):
        left[0] = now
        metrics.flush()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the retry budget is spent", "the retry budget has retries again"]


def test_hedges_are_counted_by_tier_and_fate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each count is handed on once."""
    told: list[tuple[float, Mapping[str, str]]] = []
    monkeypatch.setattr(Counter, "inc", lambda _, value, tags: told.append((value, tags)))
    counts: list[dict[str, dict[HedgeFate, int]]] = [{"fast": {HedgeFate.WON: 2}}, {"fast": {}}]
    metrics = HedgeMetrics(lambda: counts.pop(0))
    metrics.flush()
    metrics.flush()
    assert told == [(2, {"tier": "fast", "fate": "won"})]


def test_avoided_replicas_are_told_when_their_number_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line a change, without an address."""
    loads = {"strong": TierLoad()}
    metrics = LoadMetrics(lambda: loads)
    for avoided in (0, 2, 2, 0):
        loads["strong"] = TierLoad(avoided=avoided)
        metrics.flush()
    assert [record.getMessage()[-1] for record in caplog.records] == ["2", "0"]


def test_a_fixed_threshold_has_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no controller nothing is told."""
    told = gauges(monkeypatch)
    states: list[State | None] = [None]
    metrics = ControlMetrics(lambda: states[0])
    metrics.flush()
    assert told == {}
    states[0] = State(share=0.3)
    metrics.flush()
    assert set(told) == CONTROL


def test_a_tier_that_tells_nothing_has_no_free_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last value would say for ever how it was when the last call had ended."""
    told = gauges(monkeypatch)
    loads = {"strong": TierLoad(kv_free_ratio=0.25)}
    metrics = LoadMetrics(lambda: loads)
    metrics.flush()
    assert told["serve_app_kv_free_ratio"] == 0.25
    loads["strong"] = TierLoad()
    metrics.flush()
    assert math.isnan(told["serve_app_kv_free_ratio"])


def test_the_age_of_the_oldest_waiting_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of calls alone does not say whether they move."""
    told = gauges(monkeypatch)
    LoadMetrics(lambda: {"strong": TierLoad(waiting=2, oldest_wait_s=7.5)}).flush()
    assert told["serve_app_oldest_wait_seconds"] == 7.5


def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The newest value of each of Ray's gauges."""
    told: dict[str, float] = {}

    def set_value(self: Gauge, value: float, tags: dict[str, str] | None = None) -> None:
        told[self.info["name"]] = value

    monkeypatch.setattr(Gauge, "set", set_value)
    return told
