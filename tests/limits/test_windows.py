"""The time over which limits count."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.limits.ledger import Ledger
from serve_app.limits.limit import LimitAsk
from serve_app.limits.windows import (
    MINUTE_MS,
    REACH_MS,
    LimitWindow,
    closes_at,
    end_of,
    month_starts,
    slot_of,
)
from tests.limits.samples import limit_of, places_of

TIMES = st.integers(1_500_000_000_000, 2_500_000_000_000)
TIMED = st.sampled_from([LimitWindow.MINUTE, LimitWindow.DAY, LimitWindow.MONTH])


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@given(TIMED, TIMES)
def test_every_time_lies_in_its_slot(window: LimitWindow, now: int) -> None:
    """A slot holds its own beginning, and the next slot begins where it closes."""
    slot = slot_of(window, now)
    assert slot <= now < closes_at(window, slot) <= end_of(window, slot)
    assert slot_of(window, slot) == slot
    assert slot_of(window, closes_at(window, slot)) == closes_at(window, slot)


@pytest.mark.parametrize(
    ("now", "this", "after"),
    [
        ("2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
        ("2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-02-01"),
    ],
)
def test_months_are_those_of_the_calendar(now: str, this: str, after: str) -> None:
    """Also around the turn of a year and in a leap year."""
    assert month_starts(ms(now))[1:3] == (ms(this), ms(after))


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 40)), max_size=60))
def test_no_minute_holds_more_than_its_limit(calls: list[tuple[int, int]]) -> None:
    """Whatever the pauses between the calls, in any 60 seconds; and nothing is refused that would
    have fitted into 65."""
    ledger, limit, now = Ledger(), limit_of(100), 1_700_000_000_123
    taken: list[tuple[int, int]] = []
    for pause, amount in calls:
        now += pause
        verdict = ledger.reserve([LimitAsk(limit, amount)], now)
        if verdict.refused is None:
            taken.append((now, amount))
        else:
            assert sum(n for at, n in taken if at > now - REACH_MS) + amount > 100
    for end, _ in taken:
        assert sum(n for at, n in taken if end - MINUTE_MS < at <= end) <= 100


@given(st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 40)), min_size=1), TIMED)
def test_a_refusal_says_when_to_come_back(
    calls: list[tuple[int, int]], window: LimitWindow
) -> None:
    """After that time the same call passes, and a millisecond earlier it does not."""
    ledger, limit, now = Ledger(), limit_of(100, window), 1_700_000_000_123
    for pause, amount in calls:
        now += pause
        verdict = ledger.reserve([LimitAsk(limit, amount)], now)
        if verdict.refused is not None:
            early, late = now + verdict.retry_ms - 1, now + verdict.retry_ms
            assert verdict.retry_ms > 0
            used = [at for at in (early, late) if ledger.standing(limit, at).used + amount <= 100]
            assert used == [late]
            return


def test_nothing_is_reserved_if_one_limit_refuses() -> None:
    """A call that does not run uses nothing of its other limits."""
    ledger, wide, none = Ledger(), limit_of(100), places_of(0)
    verdict = ledger.reserve([LimitAsk(wide, 10), LimitAsk(none, 1)], 1_700_000_000_000)
    assert verdict.refused == 1
    assert ledger.standing(wide, 1_700_000_000_000).used == 0
