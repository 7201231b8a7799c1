"""The benchmark of overload, in virtual time, which gives the same figures everywhere."""

from __future__ import annotations

import pytest

from serve_app.offline.bench.overload import AFTER_S, Fate, Tier, find_recovery, measure

FIFO = "none, first come first served"


@pytest.mark.slow
def test_an_overload_costs_no_goodput() -> None:
    """Ten times the load for 60 s: what docs/guarantees.md promises, against no rule at all."""
    grid = measure(Tier(replicas=8, places=32), 2.0, 60.0, seed=1, rules=(FIFO, "forecast"))
    rows = {row[0]: row[1:] for row in grid.rows}
    goodput, accepted, recovery_s, _, rejection_ms, _ = rows["forecast"]
    assert float(goodput) >= 0.9
    assert float(accepted) >= 0.99
    assert float(recovery_s) <= 5
    assert float(rejection_ms) <= 100
    assert float(rows[FIFO][0]) < 0.2


def test_an_overload_of_a_small_tier() -> None:
    """One replica with sixteen places, for ten seconds."""
    grid = measure(Tier(replicas=1, places=16), 2.0, 10.0, seed=1, rules=("forecast",))
    _, goodput, accepted, *_ = grid.rows[0]
    assert float(goodput) >= 0.9
    assert float(accepted) >= 0.99


def test_the_recovery_lasts_until_the_last_bad_second() -> None:
    """A second counts as good if nearly all of its calls begin in time."""
    good = [Fate(100.0 + n / 10, 0.5, None, 0.0) for n in range(int(10 * AFTER_S))]
    assert find_recovery(good, 100.0, 2.0) == 0.0
    bad = [Fate(103.5 + n / 1000, None, 0.0, 0.0) for n in range(10)]
    assert find_recovery([*good, *bad], 100.0, 2.0) == 4.0
