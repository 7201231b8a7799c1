"""Replicas on nodes, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.tiers import TierConfig
from serve_app.offline.planning.cost import Need, plan_pool, price_tier
from serve_app.offline.planning.roofline import Speed
from tests.deploy.apps import tiers as random_tiers

SPEED = Speed(0.1, 50, 10, 40, 400, 2)


def tier(name: str, tensor: int = 1, least: int = 1, most: int = 4, **keys: Any) -> TierConfig:
    """A tier of so many GPUs a replica, on nodes that are large enough for it."""
    engine = {"tensor_parallel_size": tensor, **keys.pop("engine", {})}
    replicas = {"min": least, "max": most}
    placement = {"gpus_per_node": 64, **keys.pop("placement", {})}
    given = {"engine": engine, "replicas": replicas, "placement": placement, **keys}
    return TierConfig.model_validate({"name": name, "model_id": f"m-{name}", **given})


FAST = tier("fast", least=2, most=8)
STRONG = tier("strong", 4)


def test_both_tiers_share_the_nodes() -> None:
    """Two nodes of eight: the fewest fit, the most do not, and each has so much room."""
    pool = plan_pool("H100", 2, 8, [FAST, STRONG])
    assert (pool.min_fits, pool.gpus_min) == (True, 6)
    assert (pool.max_fits, pool.gpus_max, pool.nodes_for_max) == (False, 24, 3)
    assert pool.most == {"fast": 12, "strong": 3}


def test_a_replica_is_not_split() -> None:
    """Two nodes of six hold two replicas of four, not three; a node of two holds none."""
    assert plan_pool("H100", 2, 6, [STRONG]).most == {"strong": 2}
    small = plan_pool("H100", 4, 2, [STRONG])
    assert (small.min_fits, small.nodes_for_min, small.most) == (False, 0, {"strong": 0})


def test_groups_of_a_replica_may_be_apart() -> None:
    """Two stages of eight need two nodes, and each of them whole."""
    wide = tier("strong", 8, engine={"pipeline_parallel_size": 2}, placement={"gpus_per_node": 8})
    assert plan_pool("H100", 2, 8, [wide]).nodes_for_min == 2


def test_workers_that_must_be_apart_take_a_node_each() -> None:
    """STRICT_SPREAD over three nodes, of which each has GPUs to spare."""
    apart = tier(
        "fast", engine={"pipeline_parallel_size": 3}, placement={"strategy": "STRICT_SPREAD"}
    )
    pool = plan_pool("H100", 2, 8, [apart])
    assert (pool.min_fits, pool.nodes_for_min, pool.gpus_min) == (False, 3, 3)
    assert plan_pool("H100", 3, 8, [apart]).most == {"fast": 8}


def test_labels_keep_tiers_on_nodes_of_their_own() -> None:
    """Six GPUs that would fit one node need two, and spare nodes are for whichever tier grows."""
    tiers = [
        tier("fast", least=2, most=8, placement={"node_labels": {"pool": "fast"}}),
        tier("strong", 4, placement={"node_labels": {"pool": "strong"}}),
    ]
    pool = plan_pool("H100", 3, 8, tiers)
    assert (pool.nodes_for_min, pool.nodes_for_max) == (2, 3)
    assert pool.most == {"fast": 16, "strong": 4}


def test_slots_bound_what_a_node_holds() -> None:
    """One replica a node, whatever GPUs are free there; and one lost node takes one of them."""
    slotted = tier("fast", least=2, placement={"resources_per_replica": {"slot": 1}})
    pool = plan_pool("H100", 3, 8, [slotted])
    assert (pool.nodes_for_min, pool.nodes_for_max, pool.most) == (2, 4, {"fast": 3})
    assert pool.together == []
    assert plan_pool("H100", 3, 8, [FAST]).together == ["fast"]


@st.composite
def some_tiers(draw: st.DrawFn) -> list[TierConfig]:
    """Tiers on GPUs, whatever they say of labels, slots and strategies."""
    drawn = [draw(random_tiers(name)) for name in ("a", "b", "c")[: draw(st.integers(1, 3))]]
    return [TierConfig.model_validate({**keys, "accelerator": "gpu"}) for keys in drawn]


@given(some_tiers(), st.integers(1, 6))
def test_what_is_said_to_fit_has_the_gpus(tiers: list[TierConfig], nodes: int) -> None:
    """Never more GPUs than there are, and more nodes never hold less."""
    pool, more = (plan_pool("x", n, 8, tiers) for n in (nodes, nodes + 1))
    assert not pool.min_fits or pool.gpus_min <= nodes * 8
    assert not pool.max_fits or pool.gpus_max <= nodes * 8
    for one in tiers:
        assert pool.most[one.name] <= more.most[one.name]
        assert not pool.min_fits or pool.most[one.name] >= one.replicas.min


def test_prices_by_hand() -> None:
    """400 tokens a second on four GPUs at half load: 5.6 GPU-hours a million."""
    cost = price_tier(Need(4, 1, 4), SPEED, 145e9, 2.0, 0.5, 3.0)
    assert cost.load_s == pytest.approx(72.5)
    assert cost.gpu_hours_a_million == pytest.approx(4 * 1e6 / (400 * 0.5) / 3600)
    assert cost.price_a_million == pytest.approx(3 * cost.gpu_hours_a_million)
    assert cost.price_a_month_min == pytest.approx(3 * 4 * 730)
    assert cost.price_a_month_max == pytest.approx(3 * 4 * 730 * 4)


def test_without_a_price_there_is_none() -> None:
    """No price is assumed; GPU-hours are known."""
    cost = price_tier(Need(1, 2, 8), SPEED, 15e9, 1.0, 1.0, None)
    assert (cost.price_a_million, cost.price_a_month_min, cost.price_a_month_max) == (None,) * 3
    assert cost.gpu_hours_a_million > 0
