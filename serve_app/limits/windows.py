"""The time over which a limit counts, as integers and with an explicit clock.

A window is a number of slots. A use is counted in the slot of its time, and counts until the window
no longer reaches that slot. A minute is made of slots of five seconds and reaches back for at least
60 s, so no 60 seconds ever hold more than the limit. A day and a month are one slot each: they are
calendar periods in UTC. All times are Unix time in milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
DAY_MS = 24 * 60 * MINUTE_MS
SLOT_MS = 5 * SECOND_MS
REACH_MS = MINUTE_MS + SLOT_MS
"""How long after its beginning a slot of a minute still counts."""


class LimitWindow(StrEnum):
    """The windows of limits; a closed set, because the Redis script knows each of them."""

    NOW = "n"
    """Not a time: what is in use counts, until it is given back."""
    MINUTE = "m"
    DAY = "d"
    MONTH = "o"


def slot_of(window: LimitWindow, now: int) -> int:
    """The slot of a time, by its beginning."""
    if window is LimitWindow.MINUTE:
        return now - now % SLOT_MS
    if window is LimitWindow.DAY:
        return now - now % DAY_MS
    if window is LimitWindow.MONTH:
        return month_starts(now)[1]
    return 0


def end_of(window: LimitWindow, slot: int) -> int:
    """When a slot no longer counts."""
    if window is LimitWindow.MINUTE:
        return slot + REACH_MS
    if window is LimitWindow.DAY:
        return slot + DAY_MS
    return month_starts(slot)[2]


def closes_at(window: LimitWindow, slot: int) -> int:
    """When the slot takes no more uses, because the next slot has begun."""
    return slot + SLOT_MS if window is LimitWindow.MINUTE else end_of(window, slot)


def month_starts(now: int) -> tuple[int, int, int, int]:
    """The beginnings of the last month, this month, the next month and the month after."""
    at = datetime.fromtimestamp(now / SECOND_MS, UTC)
    first = at.year * 12 + at.month - 1
    last, this, after, later = (_month_ms(first + step) for step in (-1, 0, 1, 2))
    return last, this, after, later


def _month_ms(months: int) -> int:
    begin = datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
    return int(begin.timestamp()) * SECOND_MS
