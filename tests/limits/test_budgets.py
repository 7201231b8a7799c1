"""How much of a budget is spent, as calls see it."""

from __future__ import annotations

from serve_app.limits.budgets import Budgets
from serve_app.limits.limit import Limit, Measure, Standing
from serve_app.limits.windows import LimitWindow

ENDS = Standing(0, 1000)


def limit_of(key: str, window: LimitWindow = LimitWindow.DAY, amount: int = 100) -> Limit:
    return Limit(key, Measure.TOKENS, window, amount, "words")


def spend(used: int, reset_ms: int = 1000) -> Standing:
    return Standing(used, reset_ms)


def test_the_limit_that_is_spent_most_is_the_budget() -> None:
    """A tenant's users and keys have limits of their own, and no labels."""
    budgets = Budgets()
    budgets.note("acme", [(limit_of("user-1"), spend(20)), (limit_of("user-2"), spend(90))], 0)
    budgets.note("acme", [(limit_of("user-1"), spend(30))], 0)
    assert budgets.spent(0) == {("acme", "tokens_per_day"): 0.9}


def test_a_new_day_begins_with_nothing() -> None:
    """Until a call sees the new day's budget."""
    budgets = Budgets()
    budgets.note("acme", [(limit_of("t"), spend(90, reset_ms=500))], 100)
    assert budgets.spent(599)
    assert budgets.spent(600) == {}


def test_rates_are_no_budgets() -> None:
    """A limit of a minute is full often, and nothing is wrong."""
    budgets = Budgets()
    budgets.note("acme", [(limit_of("t", LimitWindow.MINUTE), spend(99))], 0)
    budgets.note("acme", [(limit_of("t", LimitWindow.NOW), spend(99))], 0)
    assert budgets.spent(0) == {}


def test_what_is_remembered_is_bounded() -> None:
    """By budgets, and in each by its most spent limits."""
    budgets = Budgets(budgets_max=1, limits_max=2)
    for key, used in (("a", 50), ("b", 10), ("c", 20)):
        budgets.note("acme", [(limit_of(key), spend(used))], 0)
    budgets.note("other", [(limit_of("t"), spend(99))], 0)
    assert budgets.spent(0) == {("acme", "tokens_per_day"): 0.5}


def test_a_limit_of_nothing_has_no_share() -> None:
    """It is spent from the first, and an alert would never end."""
    budgets = Budgets()
    budgets.note("acme", [(limit_of("t", amount=0), spend(0))], 0)
    assert budgets.spent(0) == {}
