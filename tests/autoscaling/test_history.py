"""What a policy remembers of a tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from serve_app.autoscaling.demand import Capacity, EngineSignals, TierSignals
from serve_app.autoscaling.history import SMOOTH_S, TREND_BINS, History

CAPACITY = Capacity(
    calls=50,
    first_token_target_s=2.0,
    kv_used_ratio=0.9,
    busy_ratio=0.8,
    prompt_tokens_per_s=1000.0,
    output_tokens_per_s=100.0,
)
BEGIN_S = 1e6


def looked(
    now_s: float,
    calls: float = 0.0,
    wanted: Mapping[str, float] | None = None,
    **engines: EngineSignals,
) -> TierSignals:
    return TierSignals(now_s, 1, 1, calls, 0.0, engines, wanted or {})


def ended(count: float) -> EngineSignals:
    """An engine that has ended so many calls, each of 100 and 10 tokens, after waits of 0.5 s."""
    return EngineSignals(
        0,
        0,
        0.0,
        first_tokens=count,
        first_token_waits_s=0.5 * count,
        finished=count,
        prompt_tokens=100 * count,
        output_tokens=10 * count,
    )


def history_of(
    count: Callable[[float], float], seconds: int, keep_s: float = 600.0, step_s: int = 1
) -> History:
    """A look each `step_s`, at an engine that has ended `count` calls by then."""
    history = History(keep_s)
    for second in range(0, seconds + 1, step_s):
        history.note(looked(BEGIN_S + second, a=ended(count(second))))
    return history


def test_an_empty_history_knows_nothing() -> None:
    """Nothing is assumed before the first look."""
    history = History(60.0)
    assert history.since(60.0) == []
    assert history.calls == 0.0
    assert history.first_token_s is None
    assert history.work_s(CAPACITY) is None
    assert history.count_arrivals() == 0.0
    assert history.project_trend(60.0) == 0.0


def test_counters_begin_at_the_first_look() -> None:
    """What an engine did before is no news; the calls that are there have arrived."""
    history = History(60.0)
    history.note(looked(1.0, 3.0, {"router": 7.0}, a=ended(100.0)))
    (point,) = history.points
    assert (point.calls, point.arrived, point.meant) == (3.0, 3.0, 0.0)
    assert (point.finished, point.first_tokens, point.first_token_waits_s) == (0.0, 0.0, 0.0)
    assert (point.prompt_tokens, point.output_tokens) == (0.0, 0.0)


def test_counters_add_up_what_engines_report() -> None:
    """Arrived are the calls that have ended since, and the change of those that are here."""
    history = History(60.0)
    history.note(looked(1.0, 3.0, {"router": 7.0}, a=ended(100.0), b=ended(50.0)))
    history.note(looked(2.0, 5.0, {"router": 9.0}, a=ended(104.0), b=ended(51.0)))
    history.note(looked(3.0, 4.0, {"router": 12.0}, a=ended(105.0), b=ended(51.0)))
    point = history.points[-1]
    assert point.finished == 6.0
    assert point.arrived == 3.0 + (5.0 + 2.0) + (1.0 - 1.0)
    assert point.meant == 5.0
    assert (point.prompt_tokens, point.output_tokens) == (600.0, 60.0)
    assert (point.first_tokens, point.first_token_waits_s) == (6.0, 3.0)


def test_engines_and_routers_that_come_go_or_restart_add_nothing() -> None:
    """Only the growth of a counter that was known counts."""
    history = History(60.0)
    history.note(looked(1.0, 0.0, {"x": 10.0, "y": 5.0}, a=ended(100.0), b=ended(40.0)))
    history.note(looked(2.0, 0.0, {"x": 3.0, "z": 8.0}, a=ended(2.0), c=ended(70.0)))
    assert (history.points[-1].finished, history.points[-1].meant) == (0.0, 0.0)
    history.note(looked(3.0, 0.0, {"x": 4.0, "z": 8.0}, a=ended(3.0), c=ended(71.0)))
    assert (history.points[-1].finished, history.points[-1].meant) == (2.0, 1.0)


def test_while_calls_spill_here_only_the_meant_ones_arrive() -> None:
    """Where no Router counts, the calls that are seen are all that is known."""
    for wanted, arrived in (({"router": 10.0}, 2.0), ({}, 9.0)):
        history = History(60.0)
        history.note(looked(1.0, 0.0, {"router": 8.0} if wanted else {}, a=ended(0.0)))
        history.note(looked(2.0, 0.0, wanted, a=ended(9.0)), spilled=True)
        assert history.points[-1].arrived == arrived


@pytest.mark.parametrize("now_s", [5.0, 4.0])
def test_a_look_that_is_not_later_is_ignored(now_s: float) -> None:
    """Rates need a time between two looks."""
    history = History(60.0)
    history.note(looked(5.0, 1.0))
    history.note(looked(now_s, 9.0))
    assert [point.calls for point in history.points] == [1.0]


def test_old_looks_are_dropped() -> None:
    """A look of exactly `keep_s` ago is kept."""
    history = history_of(lambda second: second, 100, keep_s=60.0)
    seconds = [point.at_s - BEGIN_S for point in history.points]
    assert (seconds[0], seconds[-1]) == (40.0, 100.0)
    assert [point.at_s - BEGIN_S for point in history.since(2.0)] == [98.0, 99.0, 100.0]


def test_calls_at_a_time_are_averaged() -> None:
    """Over the last seconds, the first of them included."""
    history = History(60.0)
    for second in range(41):
        history.note(looked(float(second), 100.0 if second < 40 - SMOOTH_S else second - 20))
    assert history.calls == 10.0


def test_waits_for_first_tokens_are_averaged() -> None:
    """Seconds over first tokens within the last seconds; None where no token came."""
    history = history_of(lambda second: min(second, 50.0), 60)
    assert history.first_token_s == 0.5
    history = history_of(lambda second: min(second, 30.0), 60)
    assert history.first_token_s is None
    history.note(
        looked(BEGIN_S + 61.0, a=replace(ended(30.0), first_tokens=32, first_token_waits_s=25.0))
    )
    assert history.first_token_s == 5.0


def test_the_work_of_a_call_is_that_of_the_calls_that_have_ended() -> None:
    """Their mean tokens over the rates of a replica, from the first call that has ended on."""
    assert history_of(lambda second: second / 2, 1).work_s(CAPACITY) is None
    assert history_of(lambda second: second, 1).work_s(CAPACITY) == pytest.approx(0.2)
    assert history_of(lambda second: 3.0 * second, 60).work_s(CAPACITY) == pytest.approx(0.2)
    unknown = replace(CAPACITY, output_tokens_per_s=None)
    assert history_of(lambda second: second, 60).work_s(unknown) is None


def test_a_rate_needs_three_looks() -> None:
    """Two looks are one difference, which chance may make."""
    assert history_of(lambda second: second, 1).count_arrivals() == 0.0
    assert history_of(lambda second: second, 2).count_arrivals() == pytest.approx(1.0)


def test_a_shorter_period_counts_with_clearly_more_arrivals() -> None:
    """A step shows within the shortest period, and not where shorter periods are excluded."""
    step = history_of(lambda second: second + 20.0 * max(0.0, second - 92), 100)
    assert step.count_arrivals() == pytest.approx(21.0)
    assert step.count_arrivals(15.0) == pytest.approx((15 + 160) / 15)
    assert step.count_arrivals(60.0) == pytest.approx((60 + 160) / 60)


@pytest.mark.parametrize(("more", "per_s"), [(14.0, (60 + 14) / 60), (16.0, (8 + 16) / 8)])
def test_chance_is_no_step(more: float, per_s: float) -> None:
    """Of about 10 calls expected in 8 seconds, 22 may come by chance, and 24 may not."""
    history = history_of(lambda second: second + (more if second > 95 else 0.0), 100)
    assert history.count_arrivals() == pytest.approx(per_s)


def test_fewer_calls_are_not_seen_sooner() -> None:
    """After a drop the rate of the minute holds."""
    drop = history_of(lambda second: min(second, 90.0), 100)
    assert drop.count_arrivals() == pytest.approx(50 / 60)


def test_a_steady_rise_is_continued() -> None:
    """The rate now and its slope, where looks cover the time that is kept."""
    # The rate is 1 + t / 10 calls a second, so t + t^2 / 20 calls have ended at t.
    rise = history_of(lambda second: second + second**2 / 20, 600)
    assert rise.project_trend(0.0) == pytest.approx(61.0, rel=0.01)
    assert rise.project_trend(100.0) == pytest.approx(71.0, rel=0.01)


@pytest.mark.parametrize(
    "count",
    [
        lambda second: 5.0 * second,
        lambda second: 100.0 * second - second**2 / 20,
        lambda second: second + 20.0 * max(0.0, second - 500),
        lambda second: 50.0 * second + second**2 / 200,
    ],
    ids=["steady", "a fall", "a step", "a rise of a tenth"],
)
def test_what_is_no_trend(count: Callable[[float], float]) -> None:
    """A line must explain the looks, and must rise by more than chance would."""
    assert history_of(count, 600).project_trend(100.0) == 0.0


def test_a_rise_of_a_fifth_is_a_trend() -> None:
    """The rate goes from 50 to 60 calls a second."""
    rise = history_of(lambda second: 50.0 * second + second**2 / 120, 600)
    assert rise.project_trend(0.0) == pytest.approx(60.0, rel=0.01)


def test_a_trend_needs_the_time_that_is_kept_and_enough_looks() -> None:
    """Nine tenths of the time, and two looks for each of its parts."""

    def rise(second: float) -> float:
        return second + second**2 / 20

    assert history_of(rise, 539).project_trend(0.0) == 0.0
    assert history_of(rise, 540).project_trend(0.0) > 0.0
    looks = 2 * TREND_BINS
    few = history_of(rise, 40 * (looks - 2), keep_s=560.0, step_s=40)
    enough = history_of(rise, 40 * (looks - 1), keep_s=600.0, step_s=40)
    assert (len(few.points), len(enough.points)) == (looks - 1, looks)
    assert few.project_trend(0.0) == 0.0
    assert enough.project_trend(0.0) > 0.0


@pytest.mark.parametrize(
    ("meant_per_s", "seen_per_s", "uncounted"),
    [(10.0, 13.0, False), (10.0, 15.0, True), (0.0, 1.0, True), (5.0, 0.0, False)],
)
def test_calls_that_no_router_counts(
    meant_per_s: float, seen_per_s: float, uncounted: bool
) -> None:
    """Of 600 meant in a minute, up to 1.25 x 600 + 4 x 24.5 seen are within chance."""
    history = History(600.0)
    for second in range(61):
        wanted = {"router": meant_per_s * second}
        history.note(looked(float(second), 0.0, wanted, a=ended(seen_per_s * second)))
    counted = seen_per_s if uncounted else meant_per_s
    assert history.count_arrivals(60.0) == pytest.approx(counted)
