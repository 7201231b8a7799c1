"""The forecast of waits, from measured times alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.forecast import (
    GROWTH_S,
    SAMPLES_MIN,
    FirstTokenQueue,
    Fullness,
    TimePerCall,
)


def measured(seconds: float, calls: float = 1) -> TimePerCall:
    """Enough samples of the same wait."""
    per_call = TimePerCall()
    for _ in range(SAMPLES_MIN):
        per_call.note(seconds, calls)
    return per_call


def backlog(calls: int, *, apart_s: float = 0.1) -> tuple[FirstTokenQueue, float]:
    """A queue of calls whose engine gives a first token each `apart_s`; and the time now."""
    queue = FirstTokenQueue()
    for number in range(calls):
        queue.begin(number, 0.0)
    for number in range(SAMPLES_MIN):
        queue.end(number, (number + 1) * apart_s)
    return queue, SAMPLES_MIN * apart_s


def test_a_wait_is_unknown_until_enough_calls_have_been_measured() -> None:
    """A first slow call must not reject the calls after it."""
    per_call = TimePerCall()
    for _ in range(SAMPLES_MIN - 1):
        per_call.note(60.0, 1)
    assert per_call.mean_s == per_call.longest_s(10) == 0.0


@given(
    samples=st.lists(
        st.tuples(st.floats(0.001, 100), st.integers(1, 1000)), min_size=SAMPLES_MIN, max_size=200
    )
)
def test_the_mean_lies_between_the_samples(samples: list[tuple[float, int]]) -> None:
    """Whatever their order, and however many there are."""
    per_call = TimePerCall()
    for seconds, calls in samples:
        per_call.note(seconds, calls)
    each = [seconds / calls for seconds, calls in samples]
    assert min(each) * 0.999 <= per_call.mean_s <= max(each) * 1.001


@given(calls=st.integers(1, 10_000))
def test_a_longer_queue_takes_longer(calls: int) -> None:
    """The allowance for deviations grows with the queue, but slower than the queue."""
    per_call = measured(0.5)
    this, more = per_call.longest_s(calls), per_call.longest_s(calls + 1)
    assert calls * 0.5 < this < more
    assert more / (calls + 1) < this / calls


def test_the_newest_calls_weigh_most() -> None:
    """After a change of the speed, the old speed is forgotten."""
    per_call = measured(10.0)
    for _ in range(200):
        per_call.note(0.1, 1)
    assert per_call.mean_s == pytest.approx(0.1, rel=0.2)


def test_a_tier_is_full_once_calls_wait_and_no_place_is_added() -> None:
    """A burst that Ray is still giving places to is no overload."""
    fullness = Fullness()
    assert not fullness.full(100.0)
    fullness.note(waiting=0, in_use=4, now=0.0)
    fullness.note(waiting=5, in_use=5, now=GROWTH_S / 2)
    assert not fullness.full(GROWTH_S)
    fullness.note(waiting=5, in_use=5, now=GROWTH_S)
    assert fullness.full(GROWTH_S * 1.5)
    fullness.note(waiting=0, in_use=5, now=GROWTH_S * 2)
    assert not fullness.full(GROWTH_S * 2)


def test_a_queue_before_the_engine_is_foreseen() -> None:
    """The time per call is that of the engine, however long each call waits."""
    queue, now = backlog(40)
    assert queue.longest_s(now, 2.0) > queue.mean_s() > 2.0


def test_without_calls_ahead_nothing_is_foreseen() -> None:
    """So a slow engine is tried again as soon as it has no call of this Router."""
    queue, now = backlog(SAMPLES_MIN, apart_s=60.0)
    assert queue.longest_s(now + 100, 2.0) == queue.mean_s() == 0.0


def test_one_long_prompt_is_no_queue() -> None:
    """It alone is pending, however long."""
    queue, now = backlog(SAMPLES_MIN + 1)
    assert queue.longest_s(now + 100, 2.0) == 0.0


def test_a_burst_is_no_queue_before_its_first_tokens_are_due() -> None:
    """Calls that have come at the same time may begin at the same time."""
    queue, now = backlog(SAMPLES_MIN)
    for number in range(100, 200):
        queue.begin(number, now)
    assert queue.longest_s(now + 0.1, 2.0) == 0.0
    assert queue.longest_s(now + 0.3, 2.0) > 2.0


def test_an_engine_that_stops_is_noticed_without_any_first_token() -> None:
    """The age of the pending calls counts as well as the last measured time."""
    queue, now = backlog(SAMPLES_MIN + 3)
    assert queue.longest_s(now + 60, 2.0) > 10.0


def test_a_call_that_has_ended_is_not_pending() -> None:
    """Neither by its first token nor without one."""
    queue, now = backlog(40)
    for number in range(40):
        queue.forget(number)
        queue.end(number, now + 1)
    assert queue.longest_s(now + 1, 2.0) == 0.0
