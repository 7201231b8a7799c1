"""Floors by the time of the week."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.schedule import Window, choose_floor, parse_days

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = Window(parse_days("mon-fri"), time(8), time(18), BERLIN, 4)
NIGHT = Window(parse_days("fri"), time(22), time(6), BERLIN, 2)


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("text", "days"),
    [("mon", {0}), ("mon-fri", {0, 1, 2, 3, 4}), ("fri-mon", {4, 5, 6, 0}), ("Sat - Sun", {5, 6})],
)
def test_days(text: str, days: set[int]) -> None:
    """A day, or a range that may pass the week's end."""
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "monday", "mon-", "mon-xyz", "0-4"])
def test_what_is_no_day_is_refused(text: str) -> None:
    """With the names that there are."""
    if text == "mon-":
        assert parse_days(text) == {0}
        return
    with pytest.raises(ValueError, match="mon, tue"):
        parse_days(text)


@pytest.mark.parametrize(
    ("at", "floor"),
    [
        ("2026-03-27 07:59", 0),
        ("2026-03-27 08:00", 4),
        ("2026-03-27 17:59", 4),
        ("2026-03-27 18:00", 0),
        ("2026-03-28 12:00", 0),
        # The clocks of Berlin go forward in the night to 29 March and back in that to 25 October.
        ("2026-03-30 08:00", 4),
        ("2026-03-30 07:59", 0),
        ("2026-10-26 08:00", 4),
        ("2026-10-26 07:59", 0),
    ],
)
def test_office_hours_are_those_of_the_wall_clock(at: str, floor: int) -> None:
    """08:00 is 08:00 in winter and in summer."""
    assert choose_floor([OFFICE], unix(at), 0.0) == floor


@pytest.mark.parametrize(
    ("at", "floor"),
    [
        ("2026-05-08 21:59", 0),
        ("2026-05-08 22:00", 2),
        ("2026-05-09 05:59", 2),
        ("2026-05-09 06:00", 0),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(at: str, floor: int) -> None:
    """Friday 22:00 to 06:00 ends on Saturday."""
    assert choose_floor([NIGHT], unix(at), 0.0) == floor


def test_replicas_are_ready_when_their_window_opens() -> None:
    """A start of five minutes begins five minutes before."""
    assert choose_floor([OFFICE], unix("2026-03-27 07:54"), 300.0) == 0
    assert choose_floor([OFFICE], unix("2026-03-27 07:55"), 300.0) == 4


@given(st.floats(1.7e9, 1.9e9))
def test_the_most_that_holds_counts(at_s: float) -> None:
    """Of windows that overlap the one with more replicas."""
    always = Window(parse_days("mon-sun"), time(0), time(0), BERLIN, 3)
    assert choose_floor([always, OFFICE], at_s, 0.0) == (4 if OFFICE.covers(at_s) else 3)
