"""Several tiers and one stock of GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.demand import Capacity
from serve_app.autoscaling.joint import TierWish, count_spilled, share_gpus

FAST = Capacity(
    calls=100,
    first_token_target_s=2,
    kv_used_ratio=0.9,
    busy_ratio=0.8,
    prompt_tokens_per_s=3e4,
    output_tokens_per_s=1e4,
)
STRONG = replace(FAST, calls=50, prompt_tokens_per_s=1e4, output_tokens_per_s=4e3)


def test_what_the_strong_tier_lacks_the_weaker_gets() -> None:
    """As many replicas as the same calls take there; none once the strong one has its own."""
    assert count_spilled(6.0, 1, STRONG, FAST) == pytest.approx(5 * 0.4)
    assert count_spilled(6.0, 7, STRONG, FAST) == 0.0


def test_without_rates_the_calls_at_a_time_tell() -> None:
    """Two strong replicas' calls fit on one fast one."""
    unknown = replace(STRONG, output_tokens_per_s=None)
    assert count_spilled(3.0, 1, unknown, FAST) == pytest.approx(1.0)
    assert count_spilled(3.0, 1, STRONG, replace(FAST, output_tokens_per_s=None)) == 1.0


def test_enough_gpus_for_all() -> None:
    """Everybody gets what it wants."""
    wishes = [TierWish("fast", 1, 3, 3, 1), TierWish("strong", 1, 2, 2, 4)]
    assert share_gpus(wishes, 11) == {"fast": 3, "strong": 2}
    assert share_gpus(wishes, None) == {"fast": 3, "strong": 2}


def test_too_few_gpus_are_shared() -> None:
    """Who is furthest from its wish comes next; a replica that does not fit leaves its GPUs."""
    wishes = [TierWish("fast", 1, 8, 8, 1), TierWish("strong", 1, 4, 4, 4)]
    assert share_gpus(wishes, 16) == {"fast": 8, "strong": 2}


def test_what_spills_takes_nothing_from_where_it_comes() -> None:
    """A tier that answers in place of another one gets what that one leaves, and no more."""
    wishes = [TierWish("fast", 1, 2, 5, 1), TierWish("strong", 0, 2, 2, 2)]
    assert share_gpus(wishes, 6) == {"fast": 2, "strong": 2}
    assert share_gpus(wishes, 8) == {"fast": 4, "strong": 2}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 12),
            st.integers(0, 6),
            st.sampled_from([1.0, 2.0, 4.0]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 60),
)
def test_bounds_and_floors_hold(told: list[tuple[int, int, int, float]], gpus_max: float) -> None:
    """Never beyond the GPUs but for floors, which are promised; never more than was wanted."""
    wishes = [
        TierWish(str(i), floor, own, own + spilled, gpus)
        for i, (floor, own, spilled, gpus) in enumerate(told)
    ]
    granted = share_gpus(wishes, gpus_max)
    floors = sum(wish.floor * wish.gpus for wish in wishes)
    used = sum(granted[wish.name] * wish.gpus for wish in wishes)
    assert used <= max(gpus_max, floors) + 1e-6
    for wish in wishes:
        assert wish.floor <= granted[wish.name] <= max(wish.floor, wish.wanted)
