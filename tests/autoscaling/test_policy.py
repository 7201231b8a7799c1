"""How many replicas a tier gets."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.demand import Capacity, EngineSignals, TierSignals
from serve_app.autoscaling.history import RATE_S
from serve_app.autoscaling.policy import CALM_S, ScalingDecision, TierPolicy, TierRules, round_up
from serve_app.autoscaling.schedule import Window

CAPACITY = Capacity(
    calls=50,
    first_token_target_s=2.0,
    kv_used_ratio=0.9,
    busy_ratio=0.8,
    prompt_tokens_per_s=10_000,
    output_tokens_per_s=4000,
)
RULES = TierRules(min=1, max=12, capacity=CAPACITY, start_s=60.0, quiet_s=120.0)
PROMPT, OUTPUT = 1000, 400
WORK_S = PROMPT / 10_000 + OUTPUT / 4000


class FakeTier:
    """A tier that answers every call after `stay_s`, whatever the load."""

    def __init__(
        self, rules: TierRules = RULES, *, tells: bool = True, wait_s: float = 0.1
    ) -> None:
        self.policy = TierPolicy(rules)
        self.tells = tells
        self.wait_s = wait_s
        self.now_s = 1_767_225_600.0
        self.target = self.ready = max(1, rules.min)
        self.finished = 0.0
        self.stay_s = 10.0
        self.targets: list[int] = []

    def signals(self, per_s: float) -> TierSignals:
        calls = per_s * self.stay_s
        engine = EngineSignals(
            running=calls,
            queued=0,
            kv_used_ratio=0.1,
            first_tokens=self.finished,
            first_token_waits_s=self.finished * self.wait_s,
            finished=self.finished,
            prompt_tokens=self.finished * PROMPT,
            output_tokens=self.finished * OUTPUT,
        )
        engines = {"a": engine} if self.tells else {}
        return TierSignals(self.now_s, self.ready, self.target, calls, 0.0, engines)

    def run(self, per_s: float, seconds: int, *, starts: bool = True) -> ScalingDecision:
        """So many calls a second for so long; replicas are there at once, or never."""
        for _ in range(seconds):
            self.now_s += 1
            self.finished += per_s
            decision = self.policy.decide(self.signals(per_s))
            self.target = decision.replicas
            if starts:
                self.ready = self.target
            self.targets.append(self.target)
        return decision


def needed(per_s: float) -> int:
    return round_up(per_s * WORK_S / CAPACITY.busy_ratio)


@pytest.mark.parametrize("per_s", [1.0, 10.0, 30.0])
def test_replicas_for_the_work_that_comes(per_s: float) -> None:
    """Calls a second times the seconds of a replica that a call takes, with a reserve."""
    tier = FakeTier()
    tier.run(per_s, 400)
    assert tier.target == needed(per_s)


def test_the_number_does_not_depend_on_how_fast_engines_answer() -> None:
    """Calls at a time fall when replicas come; the work that comes does not."""
    tier = FakeTier()
    tier.run(20.0, 400)
    before = tier.target
    tier.stay_s = 5.0
    tier.run(20.0, 600)
    assert tier.target == before


def test_without_rates_or_metrics_calls_at_a_time_count() -> None:
    """As Ray's own policy does it: the calls over those that a replica should have."""
    no_prompts = replace(RULES, capacity=replace(CAPACITY, prompt_tokens_per_s=None))
    no_answers = replace(RULES, capacity=replace(CAPACITY, output_tokens_per_s=None))
    for rules in (RULES, no_prompts, no_answers):
        tier = FakeTier(rules, tells=rules is not RULES)
        tier.run(20.0, 300)
        assert tier.target == math.ceil(20.0 * tier.stay_s / CAPACITY.calls)


def test_a_step_is_answered_within_seconds_and_in_full() -> None:
    """Ten times the calls: the whole of what they need is ordered before a tenth of a minute."""
    tier = FakeTier()
    tier.run(3.0, 300)
    assert tier.target == 1
    tier.run(30.0, 6, starts=False)
    assert needed(30.0) - 1 <= tier.target <= RULES.max
    tier.run(30.0, 60, starts=False)
    assert needed(30.0) <= tier.target


def test_down_only_after_a_quiet_time() -> None:
    """What was needed within the quiet time is kept; then it goes, down to the floor."""
    tier = FakeTier()
    tier.run(30.0, 400)
    high = tier.target
    tier.run(3.0, int(RULES.quiet_s) - 5)
    assert tier.target == high
    # The rate of a minute has to forget the crowd first.
    tier.run(3.0, int(RULES.quiet_s + RATE_S[0]))
    assert tier.target == needed(3.0)


@given(st.floats(0.5, 60.0), st.integers(1, 3), st.integers(3, 20))
def test_never_outside_the_bounds(per_s: float, low: int, high: int) -> None:
    """Whatever comes, between min and max."""
    tier = FakeTier(replace(RULES, min=low, max=high))
    tier.run(per_s, 100)
    assert all(low <= target <= high for target in tier.targets)


@given(st.floats(0.5, 40.0), st.floats(0.0, 20.0))
def test_more_calls_never_get_fewer_replicas(per_s: float, more: float) -> None:
    """The number grows with the load that holds."""
    less, greater = FakeTier(), FakeTier()
    less.run(per_s, 120)
    greater.run(per_s + more, 120)
    assert greater.target >= less.target


@given(st.floats(0.5, 50.0))
def test_a_steady_load_does_not_make_it_flap(per_s: float) -> None:
    """Once it has found the number, it stays there."""
    tier = FakeTier()
    tier.run(per_s, 300)
    tier.targets.clear()
    tier.run(per_s, 900)
    assert len(set(tier.targets)) == 1


def test_late_first_tokens_get_one_more_replica() -> None:
    """Rates that promise too much are found out; one at a time, and only where all are there."""
    tier = FakeTier(wait_s=9.0)
    tier.run(10.0, int(CALM_S) + 40, starts=False)
    tier.ready = tier.target
    before = tier.target
    tier.run(10.0, int(CALM_S) + 30, starts=False)
    assert tier.target == before + 1
    tier.run(10.0, 200, starts=False)
    assert tier.target == before + 1


def test_a_full_kv_cache_asks_for_more() -> None:
    """Long contexts fill the cache although there are few calls."""
    policy = TierPolicy(RULES)
    full = replace(FakeTier().signals(0.5).engines["a"], kv_used_ratio=1.0)
    signals = TierSignals(0.0, 3, 3, 15.0, 0.0, dict.fromkeys("abc", full))
    for second in range(100):
        decision = policy.decide(replace(signals, now_s=1e9 + second))
    assert decision.replicas == 4


def test_who_waits_gets_replicas_on_top() -> None:
    """A backlog is to be gone within a minute after the start, besides all that comes."""
    tier = FakeTier()
    tier.run(10.0, 300)
    before = tier.target
    signals = replace(tier.signals(10.0), now_s=tier.now_s + 1, waiting=900.0)
    assert tier.policy.decide(signals).replicas == before + round(900 * WORK_S / 60)


def test_a_steady_rise_is_looked_ahead_of() -> None:
    """By the time that a replica takes to start, the calls of then are provided for."""
    rules = replace(RULES, start_s=300.0)
    tier = FakeTier(rules)
    for minute in range(30):
        tier.run(5.0 + minute, 60)
    per_s = 5.0 + 29
    assert tier.target >= needed(per_s + 300 / 60 - 1)


def test_to_zero_after_an_idle_time_and_back() -> None:
    """The last replica goes when nobody has called for so long, and comes with the next call."""
    tier = FakeTier(replace(RULES, min=0, idle_s=300.0))
    tier.run(2.0, 60)
    tier.run(0.0, 290)
    assert tier.target == 1
    tier.run(0.0, 60)
    assert tier.target == 0
    tier.run(1.0, 2)
    assert tier.target >= 1


def test_nothing_starts_before_the_first_call() -> None:
    """A tier that may go to zero begins there, and one that has a replica keeps it for a while."""
    rules = replace(RULES, min=0, idle_s=300.0)
    signals = TierSignals(now_s=FakeTier().now_s, ready=0, target=0, calls=0.0, waiting=0.0)
    assert TierPolicy(rules).decide(signals).replicas == 0
    policy, begun = TierPolicy(rules), replace(signals, ready=1, target=1)
    assert policy.decide(begun).replicas == 1
    assert policy.decide(replace(begun, now_s=begun.now_s + 299)).replicas == 1
    assert policy.decide(replace(begun, now_s=begun.now_s + 300)).replicas == 0


def test_a_clock_that_goes_back_is_survived() -> None:
    """What was seen has no time any more; the replicas that are there stay for a quiet time."""
    tier = FakeTier()
    tier.run(30.0, 300)
    high = tier.target
    tier.now_s -= 10_000
    tier.run(30.0, 10)
    assert tier.target >= high
    tier.run(45.0, 100)
    assert tier.target == needed(45.0) > high


def test_questions_within_a_second_cost_nothing() -> None:
    """Ray asks ten times a second; the answer is that of the last look."""
    tier = FakeTier()
    tier.run(10.0, 10)
    first = tier.policy.decide(tier.signals(10.0))
    assert tier.policy.decide(replace(tier.signals(50.0), now_s=tier.now_s + 0.5)) is first


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("own_per_s", "more_per_s"), [(10.0, 10.0), (2.0, 3.0)])
def test_spilled_calls_are_not_counted_twice(
    own_per_s: float, more_per_s: float, counted: bool
) -> None:
    """They come on top of the tier's own calls, and not on top of themselves once they are here."""
    tier = FakeTier()
    for second in range(400):
        per_s = own_per_s if second < 300 else own_per_s + more_per_s
        tier.finished += per_s
        signals = replace(
            tier.signals(per_s),
            now_s=tier.now_s + second,
            wanted={"router": own_per_s * second} if counted else {},
        )
        spilled = 0.0 if second < 300 else more_per_s * WORK_S / CAPACITY.busy_ratio
        decision = tier.policy.decide(signals, spilled=spilled)
    per_s = own_per_s + more_per_s
    assert decision.needed == pytest.approx(per_s * WORK_S / CAPACITY.busy_ratio, rel=0.01)


def test_replicas_that_are_there_are_the_tiers_own_at_first() -> None:
    """Until the demand of a quiet time is known."""
    signals = TierSignals(now_s=FakeTier().now_s, ready=3, target=3, calls=0.0, waiting=0.0)
    decision = TierPolicy(RULES).decide(signals)
    assert (decision.replicas, decision.own, decision.needed) == (3, 3, 0.0)


@pytest.mark.parametrize(
    ("wanted", "target", "count"),
    [
        (3.04, 2, 3),
        (3.06, 2, 4),
        (2.9, 4, 4),
        (2.75, 4, 3),
        (2.9, 3, 3),
        (0.0, 4, 1),
        (99.0, 4, RULES.max),
    ],
)
def test_whole_replicas(wanted: float, target: int, count: int) -> None:
    """A twentieth may be missing; one that is there ends where a fifth would be to spare."""
    assert TierPolicy(RULES)._count(wanted, 1, target) == count


@pytest.mark.parametrize(
    ("meant_per_s", "seen_per_s", "counted_per_s"),
    [(10.0, 11.0, 10.0), (10.0, 20.0, 20.0), (0.0, 10.0, 10.0), (10.0, 0.0, 10.0)],
)
def test_calls_that_no_router_counted_count_where_they_are_clearly_more(
    meant_per_s: float, seen_per_s: float, counted_per_s: float
) -> None:
    """The two are told at different moments; a tenth more is no news."""
    tier = FakeTier()
    for second in range(90):
        tier.now_s += 1
        tier.finished += seen_per_s
        signals = replace(tier.signals(seen_per_s), wanted={"router": meant_per_s * second})
        tier.policy.decide(signals)
    counted = tier.policy._history.count_arrivals(RATE_S[0])
    assert counted == pytest.approx(counted_per_s, rel=0.05)


class TierWithLines(FakeTier):
    """The same tier, whose replicas also have lines that shall add none."""

    def __init__(self, rules: TierRules = RULES) -> None:
        super().__init__(rules)
        self.spare = 0.0

    def signals(self, per_s: float) -> TierSignals:
        return replace(super().signals(per_s), spare=self.spare)


def window(begin: int, end: int, replicas: int) -> Window:
    return Window(frozenset(range(7)), time(begin), time(end), ZoneInfo("UTC"), replicas)


@pytest.mark.parametrize("per_s", [0.0, 10.0])
def test_lines_add_no_replicas(per_s: float) -> None:
    """However many run, and however late a call's first token is while they run."""
    tier, alone = TierWithLines(), FakeTier()
    tier.spare, tier.wait_s = 60.0, 30.0
    alone.run(per_s, 400)
    tier.run(per_s, 400)
    assert tier.targets == alone.targets


def test_a_floor_for_lines_holds_in_its_hours_and_only_with_lines() -> None:
    """The clock of these tests begins at midnight: the window from 1 to 3 opens an hour later."""
    rules = replace(RULES, batch_schedule=(window(1, 3, 4),))
    tier = TierWithLines(rules)
    tier.run(0.0, 4000)
    assert set(tier.targets) == {1}
    tier.spare = 16.0
    tier.run(0.0, 10)
    assert tier.target == 4
    tier.spare = 0.0
    tier.run(0.0, 30)
    assert tier.target == 4
    tier.run(0.0, 60)
    assert tier.target == 1
    tier.spare = 16.0
    tier.run(0.0, 3 * 3600)
    assert tier.target == 1


def test_a_floor_for_lines_is_no_floor_of_the_tier() -> None:
    """Where GPUs are few, the calls of every tier come before the lines of one."""
    tier = TierWithLines(replace(RULES, batch_schedule=(window(0, 0, 4),)))
    tier.spare = 16.0
    decision = tier.run(0.0, 10)
    assert (decision.replicas, decision.floor) == (4, 1)
    assert decision.own < 4


def test_lines_do_not_keep_the_last_replica() -> None:
    """A tier with lines alone is idle."""
    tier = TierWithLines(replace(RULES, min=0, idle_s=60.0))
    tier.spare = 16.0
    tier.run(0.0, 200)
    assert tier.target == 0
