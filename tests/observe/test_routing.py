"""What is told of the moving threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import ray
from ray.serve.metrics import Gauge

from serve_app.core.load import TierLoad
from serve_app.observe.routing import ControlMetrics, LoadMetrics

METRICS = {
    "serve_app_routing_threshold",
    "serve_app_routing_strong_ratio",
    "serve_app_routing_drift",
}


@dataclass
class State:
    """A controller at some moment."""

    target: float = 0.3
    threshold: float = 0.5
    share: float | None = None
    drift: float | None = None
    drifting: bool = False


def test_drift_is_told_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, however often the state is read in between, and no Ray is started for it."""
    state = State()
    metrics = ControlMetrics(lambda: state)
    for drifting in (False, True, True, True, False, False):
        state.share, state.drift, state.drifting = 0.31, 0.4, drifting
        metrics.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "the scores of the calls drift: drift 0.40, threshold 0.500, share 0.310 of 0.300",
        "the scores of the calls are steady again: "
        "drift 0.40, threshold 0.500, share 0.310 of 0.300",
    ]
    assert not ray.is_initialized()


def test_a_tier_that_goes_down_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And once more when it is back; a tier that is up from the start is no news."""
    loads = {"fast": TierLoad(kv_free_ratio=0.5), "strong": TierLoad()}
    metrics = LoadMetrics(lambda: loads)
    for down in (False, True, True, False, False):
        loads["strong"] = TierLoad(down=down)
        metrics.flush()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["tier strong is down", "tier strong is back"]
    assert not ray.is_initialized()


def test_a_fixed_threshold_has_no_metrics(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no controller nothing is told, and what was told of the last one is over."""
    told: list[str] = []
    monkeypatch.setattr(Gauge, "set", lambda gauge, *_: told.append(gauge.info["name"]))
    states: list[State | None] = [State(share=0.3, drift=0.4, drifting=True)]
    metrics = ControlMetrics(lambda: states[0])
    metrics.flush()
    before, lines = len(told), len(caplog.records)
    assert (set(told), lines) == (METRICS, 1)
    states[0] = None
    metrics.flush()
    assert (len(told), len(caplog.records)) == (before, lines)
    states[0] = State(drifting=True)
    metrics.flush()
    assert len(caplog.records) == lines + 1


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


def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The newest value of each of Ray's gauges."""
    told: dict[str, float] = {}

    def set_value(self: Gauge, value: float, tags: dict[str, str] | None = None) -> None:
        told[self.info["name"]] = value

    monkeypatch.setattr(Gauge, "set", set_value)
    return told
