"""The metrics of variants: what is counted, and what a new trial changes."""

from __future__ import annotations

from collections import Counter as Counts

import pytest
from ray.serve.metrics import Counter, Gauge

from serve_app.config.variants import TierVariantsConfig
from serve_app.observe.variants import VariantMetrics
from serve_app.variants.trial import Tally, Trial


class Told:
    """What Ray was told: the newest value of each gauge, the sums of each counter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gauges: dict[tuple[str, str], float] = {}
        self.counts: Counts[tuple[str, ...]] = Counts()

        def put(metric: Gauge, value: float, tags: dict[str, str]) -> None:
            self.gauges[metric.info["name"], tags["variant"]] = value

        def inc(metric: Counter, value: float, tags: dict[str, str]) -> None:
            self.counts[metric.info["name"], *list(tags.values())[1:]] += int(value)

        monkeypatch.setattr(Gauge, "set", put)
        monkeypatch.setattr(Counter, "inc", inc)


def make_trial(trial: str = "1") -> Trial:
    return Trial("fast", TierVariantsConfig(shares={"next": 0.1}, trial=trial), lambda: 0.0)


def test_calls_and_bad_ends_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a Router has already told is not told again; a new trial counts from 0."""
    told, trials = Told(monkeypatch), [make_trial()]
    metrics = VariantMetrics(lambda: trials)
    trials[0].tallies = {"": Tally(9), "next": Tally(2, {"faults": 1})}
    metrics.flush()
    metrics.flush()
    trials[0].tallies["next"] = Tally(5, {"faults": 1, "slow": 2})
    metrics.flush()
    trials[0] = make_trial("2")
    trials[0].tallies = {"next": Tally(1)}
    metrics.flush()
    assert told.counts == {
        ("serve_app_variant_calls", "incumbent"): 9,
        ("serve_app_variant_calls", "next"): 6,
        ("serve_app_variant_bad_ends", "next", "faults"): 1,
        ("serve_app_variant_bad_ends", "next", "slow"): 2,
    }


def test_a_rollback_shows_until_a_new_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert looks at this gauge."""
    told, trials = Told(monkeypatch), [make_trial()]
    metrics = VariantMetrics(lambda: trials)
    metrics.flush()
    assert told.gauges["serve_app_variant_rolled_back", "next"] == 0
    trials[0].out["next"] = "faults"
    metrics.flush()
    assert told.gauges["serve_app_variant_rolled_back", "next"] == 1
    assert told.gauges["serve_app_variant_ratio", "next"] == 0
    trials[0] = make_trial("2")
    metrics.flush()
    assert told.gauges["serve_app_variant_rolled_back", "next"] == 0
    assert told.gauges["serve_app_variant_ratio", "next"] == 0.1
