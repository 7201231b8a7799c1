"""What label calls may take from tiers that are never idle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.feedback.budget import LABEL_TOKENS, SAVED_LABELS, LabelBudget


def test_a_percent_of_a_day_gives_a_thousand_labels() -> None:
    """100,000 calls of 600 tokens pay for 1,000 labels that cost as much."""
    budget, labels = LabelBudget(0.01), 0
    for _ in range(100_000):
        budget.earn(600)
        if budget.affords:
            budget.spend(600)
            labels += 1
    assert 980 <= labels <= 1000


def test_a_quiet_time_buys_no_burst() -> None:
    """However much was earned, a few labels empty the balance."""
    budget = LabelBudget(0.1)
    for _ in range(1000):
        budget.earn(10_000)
    labels = 0
    while budget.affords:
        budget.spend(None)
        labels += 1
    assert labels == SAVED_LABELS


def test_nothing_is_earned_without_a_share() -> None:
    """The default never pays."""
    budget = LabelBudget(0.0)
    budget.earn(10**9)
    assert not budget.affords


@given(
    ratio=st.floats(0.001, 0.2),
    calls=st.lists(st.integers(0, 50_000), min_size=1, max_size=200),
    costs=st.lists(st.integers(1, 20_000), min_size=200, max_size=200),
)
def test_labels_never_cost_more_than_their_share(
    ratio: float, calls: list[int], costs: list[int]
) -> None:
    """Apart from the last label, whose cost nobody knew before it ended."""
    budget, spent = LabelBudget(ratio), 0
    for tokens, cost in zip(calls, costs, strict=False):
        budget.earn(tokens)
        if budget.affords:
            budget.spend(cost)
            spent += cost
    assert spent <= ratio * sum(calls) + max(costs)


def test_the_first_label_waits_for_its_expected_cost() -> None:
    """Before a label has been made, a thousand tokens are expected."""
    budget = LabelBudget(1.0)
    budget.earn(int(LABEL_TOKENS) - 1)
    assert not budget.affords
    budget.earn(1)
    assert budget.affords
