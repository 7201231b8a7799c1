"""Replicas on nodes, and what they cost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.offline.planning.cost import Need, count_nodes, plan_pool, price_tier
from serve_app.offline.planning.roofline import Speed

untimed = settings(deadline=None)  # the machine may be busy
FAST = Need("fast", group_gpus=1, groups=1, replicas_min=2, replicas_max=8)
STRONG = Need("strong", group_gpus=4, groups=1, replicas_min=1, replicas_max=4)
SPEED = Speed(0.1, 50, 10, 40, 400, 2)


def test_both_tiers_share_the_nodes() -> None:
    """Two nodes of eight: the fewest fit, the most do not, and each has so much room."""
    pool = plan_pool("H100", 2, 8, [FAST, STRONG])
    assert (pool.min_fits, pool.gpus_min) == (True, 6)
    assert (pool.max_fits, pool.gpus_max, pool.nodes_for_max) == (False, 24, 3)
    assert pool.most == {"fast": 12, "strong": 3}


def test_a_replica_is_not_split() -> None:
    """Two nodes of six hold two replicas of four, not three; a node of two holds none."""
    assert plan_pool("H100", 2, 6, [STRONG]).most == {"strong": 2}
    assert count_nodes([STRONG], {"strong": 1}, 2) == math.inf
    small = plan_pool("H100", 4, 2, [STRONG])
    assert (small.min_fits, small.nodes_for_min, small.most) == (False, 0, {"strong": 0})


def test_groups_of_a_replica_may_be_apart() -> None:
    """Two stages of eight need two nodes, and each of them whole."""
    wide = Need("strong", group_gpus=8, groups=2, replicas_min=1, replicas_max=1)
    assert count_nodes([wide], {"strong": 1}, 8) == 2


needs = st.lists(
    st.builds(
        Need,
        tier=st.sampled_from(["a", "b", "c"]),
        group_gpus=st.integers(1, 8),
        groups=st.integers(1, 2),
        replicas_min=st.integers(1, 3),
        replicas_max=st.integers(3, 6),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda need: need.tier,
)


@untimed
@given(needs, st.integers(1, 6))
def test_what_is_said_to_fit_has_the_gpus(tiers: list[Need], nodes: int) -> None:
    """Never more GPUs than there are, and more nodes never hold less."""
    pool, more = (plan_pool("x", n, 8, tiers) for n in (nodes, nodes + 1))
    assert not pool.min_fits or pool.gpus_min <= nodes * 8
    assert not pool.max_fits or pool.min_fits
    for need in tiers:
        assert pool.most[need.tier] <= more.most[need.tier]
        assert not pool.min_fits or pool.most[need.tier] >= need.replicas_min


def test_prices_by_hand() -> None:
    """400 tokens a second on four GPUs at half load: 5.6 GPU-hours a million."""
    cost = price_tier(STRONG, SPEED, 145e9, 2.0, 0.5, 3.0)
    assert cost.load_s == pytest.approx(72.5)
    assert cost.gpu_hours_a_million == pytest.approx(4 * 1e6 / (400 * 0.5) / 3600)
    assert cost.price_a_million == pytest.approx(3 * cost.gpu_hours_a_million)
    assert cost.price_a_month_min == pytest.approx(3 * 4 * 730)
    assert cost.price_a_month_max == pytest.approx(3 * 4 * 730 * 4)


def test_without_a_price_there_is_none() -> None:
    """No price is assumed; GPU-hours are known."""
    cost = price_tier(FAST, SPEED, 15e9, 1.0, 1.0, None)
    assert (cost.price_a_million, cost.price_a_month_min, cost.price_a_month_max) == (None,) * 3
    assert cost.gpu_hours_a_million > 0
