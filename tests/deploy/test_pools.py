"""The nodes that a config needs, as whole machines and as pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from serve_app.config.app import AppConfig
from serve_app.config.reader import read_serve_config
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.fit import Room
from serve_app.deploy.fleet import fit_all
from serve_app.deploy.pools import (
    NodePool,
    Unplaceable,
    list_needs,
    need_of_router,
    plan_machines,
    plan_pods,
)
from tests.deploy.apps import apps

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def app_of(*tiers: dict[str, Any], **router: Any) -> AppConfig:
    return AppConfig.model_validate({"tiers": tiers, "router": router})


def gpu_tier(name: str = "strong", **keys: Any) -> dict[str, Any]:
    return {"name": name, "model_id": f"m-{name}", "accelerator": "gpu", **keys}


def app_at(path: Path) -> AppConfig:
    return read_serve_config(path).app


def rooms(pools: tuple[NodePool, ...], *, most: bool) -> list[Room]:
    return [
        room for pool in pools for room in pool.rooms(pool.nodes_max if most else pool.nodes_min)
    ]


def pinned(app: AppConfig, pools: tuple[NodePool, ...]) -> AppConfig:
    """The config with each tier kept to its own pods, as it is deployed on Kubernetes."""
    owners = {name: pool for pool in pools for name in pool.deployments}
    tiers = []
    for tier in app.tiers:
        labels = dict(owners[tier.name].labels)
        placement = tier.placement.model_copy(update={"node_labels": labels})
        tiers.append(tier.model_copy(update={"placement": placement}))
    return app.model_copy(update={"tiers": tuple(tiers)})


def check_placed(app: AppConfig, pools: tuple[NodePool, ...], *, most: bool) -> None:
    needs = list_needs(app, most=most)
    assert fit_all(needs, rooms(pools, most=most)) == {}


def check_machines(app: AppConfig) -> None:
    pools = plan_machines(app)
    check_placed(app, pools, most=False)
    check_placed(app, pools, most=True)


def check_pods(app: AppConfig) -> None:
    pools = plan_pods(app)
    for most in (False, True) if pools else ():
        *needs, (_, _, routers) = list_needs(pinned(app, pools), most=most)
        router = (ROUTER_NAME, need_of_router(app.router, {"pool": "router"}), routers)
        assert fit_all([*needs, router], rooms(pools, most=most)) == {}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_have_their_places(path: Path) -> None:
    """On machines and in pods, at the fewest replicas and at the most."""
    check_machines(app_at(path))
    check_pods(app_at(path))


@given(apps())
def test_any_config_has_its_places_on_machines(app: AppConfig) -> None:
    """Whatever it says of labels, slots, strategies and GPUs."""
    check_machines(app)


@given(apps())
def test_any_config_has_its_places_in_pods(app: AppConfig) -> None:
    """The same, where each tier has pods of its own."""
    check_pods(app)


@given(apps())
def test_names_are_apart_and_fit_for_kubernetes(app: AppConfig) -> None:
    """A tier may be called like the Routers' pool, or have an underscore."""
    for pools in (plan_machines(app), plan_pods(app)):
        names = [pool.name for pool in pools]
        assert len(set(names)) == len(names)
        assert all(name.replace("-", "").isalnum() and name.islower() for name in names)


def test_tiers_share_machines() -> None:
    """Six GPUs of one node at the fewest; the second node is for the second Router."""
    app = app_at(CONFIGS[0].parent / "prod.yaml")
    [pool] = plan_machines(app)
    assert (pool.name, pool.deployments) == ("h100", ("fast", "strong"))
    assert (pool.nodes_min, pool.nodes_max) == (2, 3)
    assert pool.resources == {"CPU": 25, "GPU": 8, "accelerator_type:H100": 1}
    alone = app.model_copy(
        update={"router": app.router.model_copy(update={"max_replicas_per_node": None})}
    )
    [pool] = plan_machines(alone)
    assert pool.nodes_min == 1


def test_pods_are_as_large_as_what_is_in_them() -> None:
    """No GPU is held that no replica uses."""
    app = app_at(CONFIGS[0].parent / "prod.yaml")
    pools = plan_pods(app)
    assert [(pool.name, pool.gpus, pool.nodes_min, pool.nodes_max) for pool in pools] == [
        ("fast", 1, 2, 8),
        ("strong", 4, 1, 4),
        ("router", 0, 2, 3),
    ]
    assert sum(pool.gpus * pool.nodes_min for pool in pools) == 6


@pytest.mark.parametrize(
    ("engine", "placement", "pods"),
    [
        ({"tensor_parallel_size": 3}, {}, [(3, 1)]),
        ({"tensor_parallel_size": 8, "pipeline_parallel_size": 2}, {}, [(8, 2)]),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 3}, {}, [(8, 2)]),
        ({"tensor_parallel_size": 2, "data_parallel_size": 4}, {}, [(8, 1)]),
        ({"pipeline_parallel_size": 3}, {"strategy": "STRICT_SPREAD"}, [(1, 3)]),
        ({"tensor_parallel_size": 2, "data_parallel_size": 3}, {"gpus_per_node": 4}, [(4, 2)]),
    ],
)
def test_pods_of_one_replica(
    engine: dict[str, int], placement: dict[str, Any], pods: list[tuple[int, int]]
) -> None:
    """One, or as few as whole tensor-parallel groups on its nodes take."""
    app = app_of(gpu_tier(engine=engine, placement=placement))
    found = [(pool.gpus, pool.nodes_min) for pool in plan_pods(app) if pool.gpus]
    assert found == pods


def test_labels_that_agree_share_a_pool() -> None:
    """One zone suits all three of these; two pools of one name do not come together."""
    selectors = ["in(a,b)", "!a", "!in(c,d)"]
    tiers = [
        gpu_tier(f"t{at}", placement={"node_labels": {"zone": selector}})
        for at, selector in enumerate(selectors)
    ]
    [pool] = plan_machines(app_of(*tiers))
    assert pool.labels == {"zone": "b"}
    apart = [gpu_tier(name, placement={"node_labels": {"pool": name}}) for name in ("a", "b")]
    assert [pool.labels for pool in plan_machines(app_of(*apart))] == [{"pool": "a"}, {"pool": "b"}]


def test_slots_bound_replicas_of_a_node() -> None:
    """A node offers one of each; a replica that takes half of it shares it with one other."""
    placement = {"resources_per_replica": {"slot": 0.5}}
    [pool] = plan_machines(app_of(gpu_tier(placement=placement, replicas={"min": 3, "max": 8})))
    assert pool.custom == {"slot": 1}
    assert (pool.nodes_min, pool.nodes_max) == (2, 4)


def test_what_no_node_can_hold_is_told() -> None:
    """A replica that must be on one node and is larger."""
    tier = gpu_tier(
        engine={"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
        placement={"strategy": "STRICT_PACK"},
    )
    for plan in (plan_machines, plan_pods):
        with pytest.raises(Unplaceable, match="needs 16 GPUs on one node, and nodes have 8"):
            plan(app_of(tier))
