"""The statistics, against published values and against what must hold of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.offline.evaluate.stats import compare, mcnemar, percentile, wilson

COUNTS = st.integers(0, 40)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(right: int, total: int, low: float, high: float) -> None:
    """As published."""
    interval = wilson(right, total)
    assert (interval.low, interval.high) == (
        pytest.approx(low, abs=5e-5),
        pytest.approx(high, abs=5e-5),
    )


def test_wilson_of_nothing() -> None:
    """Without answers anything is possible."""
    interval = wilson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(counts: tuple[int, int]) -> None:
    """It stays within 0..1, around the share, and mirrors when right and wrong change places."""
    right, total = counts
    interval, mirrored = wilson(right, total), wilson(total - right, total)
    assert 0 <= interval.low <= right / total <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 2 / 2**6),
        (0, 6, 2 / 2**6),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemar(gained: int, lost: int, p: float) -> None:
    """Twice the tail of a fair coin, and never more than certainty."""
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_of_many() -> None:
    """Numbers too large for a float are no obstacle."""
    assert 0 < mcnemar(2400, 2600) < 0.01


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two models with so many questions of each kind."""
    ours = [True] * (both + gained) + [False] * (lost + neither)
    theirs = [True] * both + [False] * gained + [True] * lost + [False] * neither
    return ours, theirs


def test_a_difference() -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10: 36, 12, 2, 0."""
    difference = compare(*pairs(36, 12, 2, 0))
    assert difference.mean == pytest.approx(0.2)
    assert difference.interval.low == pytest.approx(0.0569, abs=5e-5)
    assert difference.interval.high == pytest.approx(0.3404, abs=5e-5)
    assert difference.p == mcnemar(12, 2)


def test_no_difference() -> None:
    """Two models that are right on the same questions may still differ a little on others."""
    difference = compare(*pairs(30, 0, 0, 20))
    assert (difference.mean, difference.p) == (0.0, 1.0)
    assert difference.interval.low < 0 < difference.interval.high


@given(COUNTS, COUNTS, COUNTS, COUNTS.map(lambda count: count + 1))
def test_a_difference_is_held_by_its_interval(
    both: int, gained: int, lost: int, neither: int
) -> None:
    """Within -1..1, and mirrored when the models change places."""
    ours, theirs = pairs(both, gained, lost, neither)
    forth, back = compare(ours, theirs), compare(theirs, ours)
    assert -1 <= forth.interval.low <= forth.mean <= forth.interval.high <= 1
    assert (forth.mean, forth.p) == (-back.mean, back.p)
    assert forth.interval.low == pytest.approx(-back.interval.high, abs=1e-12)


def test_different_questions_cannot_be_compared() -> None:
    """Neither can none."""
    for ours, theirs in [([True], [True, False]), ([], [])]:
        with pytest.raises(ValueError, match="the same questions"):
            compare(ours, theirs)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.95, 95), (1.0, 100)])
def test_percentile(share: float, value: float) -> None:
    """One of the values, whatever their order."""
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


def test_percentile_of_nothing() -> None:
    """There is none."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
