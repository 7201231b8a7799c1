"""Floors by the time of the week: replicas that are ready before users come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time
from zoneinfo import ZoneInfo

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOK_S = 60.0


@dataclass(frozen=True, slots=True)
class Window:
    """At least `min` replicas on these weekdays (0 is Monday) between two times of day.

    The times are times of a wall clock in the zone, so 08:00 stays 08:00 when the clocks change. A
    window that ends at or before its begin ends on the next day.
    """

    days: frozenset[int]
    begin: time
    end: time
    zone: ZoneInfo
    min: int

    def covers(self, at_s: float) -> bool:
        """Whether the Unix time is within the window."""
        local = datetime.fromtimestamp(at_s, self.zone)
        clock = local.time()
        if self.begin < self.end:
            return local.weekday() in self.days and self.begin <= clock < self.end
        today = local.weekday() in self.days and clock >= self.begin
        yesterday = (local.weekday() - 1) % 7 in self.days and clock < self.end
        return today or yesterday


def parse_days(text: str) -> frozenset[int]:
    """Weekdays from a day such as `mon`, or from a range such as `mon-fri` or `fri-mon`.

    Raises:
        ValueError: the text names no days.
    """
    first, _, last = text.strip().lower().partition("-")
    names = (first.strip(), (last or first).strip())
    if any(name not in WEEKDAYS for name in names):
        raise ValueError(
            f"'{text}' is not a day: {', '.join(WEEKDAYS)}, or a range such as mon-fri"
        )
    begin, end = (WEEKDAYS.index(name) for name in names)
    return frozenset((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def choose_floor(windows: Iterable[Window], now_s: float, ahead_s: float) -> int:
    """The most replicas that any window asks for now or within `ahead_s`; 0 without such a window.

    `ahead_s` is the time that a replica takes to start, so a replica is ready when its window
    opens.
    """
    looks = [now_s + step * _LOOK_S for step in range(int(ahead_s // _LOOK_S) + 1)]
    looks.append(now_s + ahead_s)
    return max(
        (window.min for window in windows if any(window.covers(at_s) for at_s in looks)),
        default=0,
    )
