"""The calls of one Router, in steps of time."""

from __future__ import annotations

from serve_app.core.call import (
    CacheResult,
    Decision,
    Endpoint,
    Outcome,
    Reason,
    Record,
    Usage,
)
from serve_app.pages.counting import CallCounts
from serve_app.pages.numbers import SLOW_CALLS, STEP_S, STEPS


class Clock:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def make_record(tier: str = "fast", **more: object) -> Record:
    record = Record("r1", Endpoint.CHAT, stream=True, arrived_at=1.0)
    record.decision = Decision(tier, f"m-{tier}", Reason.SIMPLE)
    record.first_byte_s, record.total_s = 0.2, 1.0
    record.usage = Usage(10, 5)
    for name, value in more.items():
        setattr(record, name, value)
    return record


def test_a_call_is_counted_once_in_its_step() -> None:
    """Its tier, its reason, its tokens, its money, and how long its first token took."""
    clock = Clock()
    counts = CallCounts(clock)
    counts.add(make_record(cost=3, strong_cost=10))
    counts.add(make_record())
    clock.now += STEP_S
    counts.add(make_record("strong", outcome=Outcome.SERVER_ERROR, code="upstream_failed"))
    first, second = counts.steps()
    assert (first.calls, second.calls) == ({"fast": 2}, {"strong": 1})
    assert first.decisions == {("fast", "simple"): 2}
    assert (first.output_tokens, first.cost, first.saved) == ({"fast": 10}, 3, 7)
    assert sum(first.first_tokens["fast"]) == 2
    assert (first.failed, second.failed) == (0, 1)
    assert second.errors == {("strong", "upstream_failed"): 1}
    assert (counts.totals.calls, counts.totals.failed) == (3, 1)


def test_a_call_without_a_tier() -> None:
    """It failed before the decision, for example for a wrong key."""
    counts = CallCounts(Clock())
    counts.add(make_record(decision=None, status=401, code="invalid_api_key"))
    [step] = counts.steps()
    assert step.calls == {"none": 1}
    assert step.errors == {("none", "invalid_api_key"): 1}
    assert step.first_tokens == {}
    assert counts.slowest()[0].tier is None


def test_an_answer_of_the_cache_has_no_tokens() -> None:
    """No engine has generated them."""
    counts = CallCounts(Clock())
    counts.add(make_record(cache=CacheResult.HIT))
    [step] = counts.steps()
    assert (step.calls, step.output_tokens, step.first_tokens) == ({"fast": 1}, {}, {})


def test_old_steps_are_forgotten() -> None:
    """The memory is bounded, also where no call comes for a while."""
    clock = Clock()
    counts = CallCounts(clock)
    for _ in range(STEPS + 10):
        counts.add(make_record())
        clock.now += STEP_S
    assert len(counts.steps()) == STEPS - 1
    clock.now += STEPS * STEP_S
    assert counts.steps() == []
    assert counts.totals.calls == STEPS + 10


def test_a_clock_that_is_set_back() -> None:
    """No step comes twice."""
    clock = Clock()
    counts = CallCounts(clock)
    counts.add(make_record())
    clock.now -= 3 * STEP_S
    counts.add(make_record())
    [step] = counts.steps()
    assert step.calls == {"fast": 2}


def test_the_slowest_calls_are_kept() -> None:
    """A bounded number of them, the slowest first, for as long as their steps."""
    clock = Clock()
    counts = CallCounts(clock)
    for number in range(3 * SLOW_CALLS):
        counts.add(make_record(total_s=float(number % 17)))
        clock.now += 1
    kept = [call.total_s for call in counts.slowest()]
    assert kept == [16.0, 15.0, 14.0, 13.0, 12.0, 12.0, 11.0, 11.0, 10.0, 10.0]
    clock.now += STEPS * STEP_S
    assert counts.slowest() == []
