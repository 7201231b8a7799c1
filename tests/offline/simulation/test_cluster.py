"""Tiers under a trace: what a controller is told, and what its decisions do and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from serve_app.offline.simulation.cluster import Cluster, News, SimTier, TierView
from serve_app.offline.simulation.engine import EngineTiming
from serve_app.offline.simulation.outcome import count_turns, sum_up
from serve_app.offline.simulation.reference import (
    PlannedController,
    count_needed,
    plan_oracle,
    plan_reaction,
)
from serve_app.offline.simulation.trace import Shape, Trace, all_shapes, draw_trace

# 100 ms for a prompt of 100, and nothing for an answer of one token.
TIMING = EngineTiming(0.0, 0.001, 0.0, 0.0, 1000, 10**6, 100)
TIER = SimTier("fast", TIMING, 2.0, 60.0, 8, 4, 10, 30.0, 1.0)
NEWS = News(look_back_s=30.0, push_s=10.0)


class FakeController:
    """Keeps what it is told, and gives one target."""

    def __init__(self, *targets: int) -> None:
        self.targets = targets
        self.told: list[tuple[float, Sequence[TierView]]] = []

    def decide(self, now_s: float, views: Sequence[TierView]) -> Sequence[int]:
        self.told.append((now_s, views))
        return self.targets


def trace_of(every_s: float, length_s: float, output: int = 1) -> Trace:
    at_s = np.arange(0.5, length_s, every_s)
    ones = np.ones(len(at_s), dtype=np.int64)
    return Trace("even", length_s, at_s, 100 * ones, output * ones)


def test_one_replica_without_a_queue() -> None:
    """Every call waits for its own prompt; the GPUs are held from begin to end."""
    cluster = Cluster([TIER], FakeController(1), NEWS, [1])
    calls = cluster.run([trace_of(1.0, 600.0)])[0]
    outcome = sum_up(cluster.states[0], calls, 600.0, 1.0)
    assert (outcome.calls, outcome.missed, outcome.refused) == (600, 0, 0)
    assert outcome.first_token_p50_s == pytest.approx(0.1)
    assert outcome.gpu_hours == pytest.approx(2.0 * 600 / 3600)
    assert outcome.turns_per_hour == 0


def test_replicas_take_their_time_to_start_and_cost_from_the_order() -> None:
    """Two more, ordered at 0 and ready at 60 s."""
    controller = FakeController(3)
    cluster = Cluster([TIER], controller, NEWS, [1])
    cluster.run([trace_of(1.0, 120.0)])
    ready = {now_s: views[0].ready for now_s, views in controller.told}
    assert (ready[59.0], ready[60.0]) == (1, 3)
    outcome = sum_up(cluster.states[0], [], 120.0, 1.0)
    assert outcome.gpu_hours == pytest.approx(3 * 2.0 * 120 / 3600)


@pytest.mark.parametrize(("patience_s", "left"), [(1000.0, 10), (30.0, 0)])
def test_a_full_tier_queues_then_refuses_and_impatient_calls_go(
    patience_s: float, left: int
) -> None:
    """Four places and ten in the queue, of calls that never end; the rest are turned away."""
    slow = Trace("burst", 60.0, np.full(20, 0.5), np.full(20, 900_000), np.full(20, 5))
    tier = replace(TIER, patience_s=patience_s)
    cluster = Cluster([tier], FakeController(1), NEWS, [1])
    calls = cluster.run([slow])[0]
    state = cluster.states[0]
    assert (state.ready[0].engine.calls, len(state.queue)) == (4, left)
    assert sum_up(state, calls, 60.0, 1.0).refused == 20


def test_news_are_as_old_as_rays() -> None:
    """Recorded every six seconds, sent every ten: what is told is that old, and no older."""
    controller = FakeController(1)
    cluster = Cluster([TIER], controller, NEWS, [1])
    cluster.run([trace_of(1.0, 120.0)])
    ages = [now_s - views[0].samples[-1].at_s for now_s, views in controller.told if now_s > 20]
    assert NEWS.record_s == 6.0
    assert 10.0 <= max(ages) <= NEWS.push_s + NEWS.record_s
    assert all(
        views[0].samples[-1].at_s - views[0].samples[0].at_s <= NEWS.look_back_s
        for now_s, views in controller.told
        if now_s > 20
    )


def test_a_removed_replica_finishes_its_calls() -> None:
    """It takes nothing new, and costs until its last call has ended."""
    long = Trace("long", 200.0, np.array([0.5, 0.6]), np.array([100, 100]), np.array([50, 50]))
    timing = EngineTiming(1.0, 0.001, 0.0, 0.0, 1000, 10**6, 100)
    tier = SimTier("fast", timing, 1.0, 60.0, 8, 4, 10, 30.0, 5.0)
    plan = PlannedController([[(0.0, 1), (10.0, 0)]])
    cluster = Cluster([tier], plan, NEWS, [1])
    calls = cluster.run([long])[0]
    outcome = sum_up(cluster.states[0], calls, 200.0, 5.0)
    assert outcome.refused == 0
    gone = cluster.states[0].gone
    assert len(gone) == 1
    assert outcome.gpu_hours == pytest.approx(gone[0].gone_s / 3600)
    assert 50 < gone[0].gone_s < 60


def test_a_start_that_is_called_off_ends_at_once() -> None:
    """The newest of those that start goes before any that works."""
    plan = PlannedController([[(0.0, 3), (30.0, 1)]])
    cluster = Cluster([TIER], plan, NEWS, [1])
    cluster.run([trace_of(1.0, 120.0)])
    assert [replica.gone_s for replica in cluster.states[0].gone] == [30.0, 30.0]
    assert len(cluster.states[0].ready) == 1


def test_calls_without_a_place_spill() -> None:
    """To the other tier, where they count as calls meant for their own."""
    controller = FakeController(0, 1)
    cluster = Cluster([TIER, TIER], controller, NEWS, [0, 1], spill={0: 1})
    cold, warm = cluster.run([trace_of(1.0, 60.0), trace_of(1.0, 60.0)])
    assert all(call.spilled and call.first_token_s - call.arrived_s < 1 for call in cold)
    assert not any(call.spilled for call in warm)
    assert controller.told[-1][1][0].samples[-1].wanted >= 40


def test_the_same_seed_is_the_same_run() -> None:
    """Traces and clusters draw from seeds alone."""
    shape = all_shapes()[0]
    runs = []
    for _ in range(2):
        trace = draw_trace(shape, 0.2, 7)
        cluster = Cluster([TIER], FakeController(2), NEWS, [2], seed=7)
        runs.append([call.first_token_s for call in cluster.run([trace])[0]])
    assert runs[0] == runs[1]
    assert len(draw_trace(shape, 0.2, 8)) != len(runs[0])


@pytest.mark.parametrize("shape", all_shapes(), ids=lambda shape: shape.name)
def test_a_trace_has_as_many_calls_as_its_rate_says(shape: Shape) -> None:
    """Within what chance allows, and never more often than its peak."""
    base = 2.0
    trace = draw_trace(shape, base, 3)
    at_s = np.linspace(0, trace.length_s, 10_000)
    expected = base * trace.length_s * float(np.mean(shape.rate(at_s)))
    assert abs(len(trace) - expected) < 5 * expected**0.5
    assert np.all(np.diff(trace.arrived_s) >= 0)
    assert trace.prompt.min() >= 1


def test_the_oracle_orders_ahead_and_the_reaction_when_it_happens() -> None:
    """Two windows of a start before the step, and in its very window."""
    needed = [1, 1, 1, 1, 4, 4, 1, 1, 1, 1]
    oracle = dict(plan_oracle(needed, 60.0))
    assert [oracle[at_s] for at_s in (30.0, 60.0, 150.0, 180.0)] == [1, 4, 4, 1]
    assert dict(plan_reaction(needed))[120.0] == 4


def test_a_dip_shorter_than_a_start_is_kept_through() -> None:
    """To stop and start again would cost more than to stay."""
    at_s = np.concatenate([np.linspace(0, 59, 600), np.linspace(90, 149, 600)])
    ones = np.ones(len(at_s), dtype=np.int64)
    trace = Trace("dip", 240.0, at_s, ones, ones)
    needed = count_needed(trace, 10.0, 0.5, 60.0)
    assert min(needed[:5]) >= 2
    assert needed[-1] == 1


@pytest.mark.parametrize(
    ("changes", "turns"), [([], 0), ([2, 1], 0), ([2, -1], 1), ([1, -1, 1, 1, -2], 3)]
)
def test_turns_are_changes_of_direction(changes: list[int], turns: int) -> None:
    """Going up twice is not flapping."""
    assert count_turns(changes) == turns
