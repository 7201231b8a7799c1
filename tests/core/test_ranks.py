"""The ranks of calls in an engine, and how lines rise as their batch's time runs out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.caller import ANONYMOUS, EVERYTHING, LineTurn, Priority
from serve_app.core.ranks import BATCH_RANK, CLIENT_RANK, choose_rank, find_rank

ratios = st.floats(-1, 2, allow_nan=False)
risings = st.floats(0, 1, allow_nan=False)


@given(ratios, ratios, risings)
def test_a_line_only_rises_and_never_comes_before_a_client(a: float, b: float, part: float) -> None:
    """The less time is left, the lower the rank, and never below that of clients' calls."""
    less, more = sorted((a, b))
    assert CLIENT_RANK <= choose_rank(less, part) <= choose_rank(more, part) <= BATCH_RANK


@given(st.floats(1e-6, 1))
def test_every_line_gets_the_rank_of_clients_in_time(part: float) -> None:
    """Once a quarter of the rising part is left; with what is late, too."""
    for left in (0.24 * part, 0.0, -1.0):
        assert choose_rank(left, part) == CLIENT_RANK
    assert choose_rank(part, part) == BATCH_RANK


@given(ratios)
def test_lines_may_be_told_never_to_rise(left: float) -> None:
    """With 0 they stay last."""
    assert choose_rank(left, 0.0) == BATCH_RANK


@pytest.mark.parametrize(
    ("left", "rank"), [(0.25, 100), (0.24, 75), (0.18, 50), (0.12, 25), (0.06, 0)]
)
def test_lines_rise_in_four_steps(left: float, rank: int) -> None:
    """Within the last quarter, as the config says by default."""
    assert choose_rank(left, 0.25) == rank


def test_whose_call_has_which_rank() -> None:
    """A client has 0, a caller whose role is `batch` 100, and a line what its batch gives it."""
    batch = replace(ANONYMOUS, rights=replace(EVERYTHING, priority=Priority.BATCH))
    assert find_rank(ANONYMOUS) == CLIENT_RANK
    assert find_rank(batch) == BATCH_RANK
    assert find_rank(replace(batch, turn=LineTurn(25))) == 25
