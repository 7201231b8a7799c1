"""One call's deadlines: absolute, and the same on whatever replicas it is tried."""

from __future__ import annotations

import pytest

from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import DeadlineExceeded, TierOverloaded


def arrived(first_byte_s: float = 50.0, total_s: float = 100.0) -> Deadlines:
    """The deadlines of a call that has come at second 1,000 and may wait 10 s for places."""
    return Deadlines(1000.0, place_s=10, first_byte_s=first_byte_s, gap_s=5, total_s=total_s)


def test_waits_for_places_share_one_budget() -> None:
    """A second replica gives no second budget, and what was not waited is still there later."""
    deadlines = arrived()
    assert deadlines.place_at(1000.0, stream=True) == 1010.0
    deadlines.spend_on_place(7.0)
    assert deadlines.place_at(1030.0, stream=True) == 1033.0
    deadlines.spend_on_place(7.0)
    assert deadlines.place_at(1040.0, stream=True) == 1040.0


@pytest.mark.parametrize(
    ("first_byte_s", "total_s", "stream", "head_at"),
    [(50, 100, True, 1050), (50, 100, False, 1100), (200, 100, True, 1100)],
)
def test_the_head_has_a_moment(
    first_byte_s: float, total_s: float, stream: bool, head_at: float
) -> None:
    """That of a whole answer comes with its last byte; none comes after the whole call's end."""
    deadlines = arrived(first_byte_s, total_s)
    assert deadlines.head_at(stream=stream) == head_at
    assert deadlines.place_at(head_at - 1, stream=stream) == head_at
    deadlines.check(head_at - 0.1, stream=stream)
    with pytest.raises(DeadlineExceeded):
        deadlines.check(head_at, stream=stream)


def test_whose_fault_a_missing_place_is() -> None:
    """The tier's, while the call has time left; then the deadline is what the client hears of."""
    deadlines = arrived()
    assert isinstance(deadlines.no_place(1010.0, stream=True), TierOverloaded)
    missed = deadlines.no_place(1050.0, stream=True)
    assert isinstance(missed, DeadlineExceeded)
    assert missed.limit == "first byte"
