"""Self-made labels against the questions' checks."""

from __future__ import annotations

import pytest

from serve_app.offline.probing.labels import (
    LABELLERS,
    MATCH,
    VOTES,
    judge_labels,
    measure_bias,
)
from serve_app.offline.probing.rows import Row
from tests.offline.probing.fakes import row

JUDGE = "judge, English prompt, both orders"


def judged(straight: tuple[bool, bool], swapped: tuple[bool, bool], strong: str = "42") -> Row:
    return row(strong=strong, verdicts={"en ab": straight, "en ba": swapped})


def test_answers_that_differ_make_strong_right() -> None:
    """As the service's own labels do."""
    assert LABELLERS[MATCH](row()) == (0.0, 1.0)
    assert LABELLERS[MATCH](row(fast="It is 42.")) == (1.0, 1.0)


def test_samples_vote() -> None:
    """The label is the share of the samples that say what the answer says."""
    assert LABELLERS[VOTES](row(samples=("41", "It is 41.", "7", "8"))) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("straight", "swapped", "label"),
    [
        ((True, False), (True, False), (1.0, 0.0)),
        ((True, False), (False, True), None),
    ],
)
def test_a_verdict_needs_both_orders(
    straight: tuple[bool, bool], swapped: tuple[bool, bool], label: tuple[float, float] | None
) -> None:
    """A verdict that depends on the order is none."""
    assert LABELLERS[JUDGE](judged(straight, swapped)) == label


def test_equal_answers_are_not_judged() -> None:
    """Both count as right, and rows without a verdict have no label."""
    assert LABELLERS[JUDGE](row(fast="42")) == (1.0, 1.0)
    assert LABELLERS[JUDGE](row()) is None


def test_agreement_counts_both_kinds_of_mistakes() -> None:
    """Wrong answers that were called right, and right answers that were called wrong."""
    rows = [
        row(fast="42", fast_right=False),  # the same mistake as strong's
        row(fast_right=True, strong_right=False),
        row(),
    ]
    match = next(each for each in judge_labels(rows) if each.name == MATCH)
    assert (match.labelled, match.wrongly_right, match.wrongly_wrong) == (3, 1, 1)
    assert match.fast == pytest.approx(1 / 3)
    assert match.strong == pytest.approx(2 / 3)


def test_a_judge_that_prefers_the_first() -> None:
    """Fast stands first in one order, and strong in the other."""
    bias = measure_bias([judged((True, False), (False, True))] * 3, "en")
    assert bias is not None
    assert (bias.pairs, bias.steady, bias.one_sided, bias.first) == (3, 0.0, 6, 1.0)


def test_a_judge_that_prefers_the_longer() -> None:
    """Whatever stands first; pairs of equal length do not count."""
    longer = judged((False, True), (False, True), strong="The answer is 42.")
    equal = judged((True, False), (True, False))
    bias = measure_bias([longer, equal], "en")
    assert bias is not None
    assert (bias.steady, bias.first, bias.longer) == (1.0, 0.5, 1.0)


def test_no_verdicts_no_bias() -> None:
    """Nothing is reported of a judge that was not asked."""
    assert measure_bias([row()], "en") is None
