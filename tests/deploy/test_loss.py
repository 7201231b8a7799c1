"""Each node of a deployment is lost in its turn: what goes on answering, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.config.app import AppConfig
from serve_app.config.reader import read_serve_config
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.fit import Room
from serve_app.deploy.loss import count_left, lose_each, spread_pods
from serve_app.deploy.pools import NodePool, list_needs, plan_machines, plan_pods

ROOT = Path(__file__).parents[2]
AMOUNTS = {"CPU": 96.0, "GPU": 8.0}
MACHINE = Room({}, AMOUNTS, AMOUNTS, {})


def app_of(name: str) -> AppConfig:
    return read_serve_config(ROOT / f"configs/{name}.yaml").app


def machines_of(app: AppConfig, spare: int = 0) -> list[Room]:
    """As many as the config's fewest replicas need, and some that are spare."""
    return [room for pool in plan_machines(app) for room in pool.rooms(pool.nodes_min + spare)]


def silent_pods(pools: tuple[NodePool, ...], machines: int) -> list[list[str]]:
    """For each machine, the pools without a pod once it is lost."""
    placed = spread_pods(pools, [MACHINE] * machines)
    assert placed.lacking == {}
    left = [count_left(placed.nodes, lost) for lost in range(machines)]
    return [[name for name, count in counts.items() if not count] for counts in left]


def test_packed_replicas_are_lost_together() -> None:
    """prod.yaml where Ray runs on the machines: one of them has both tiers, the other neither."""
    app = app_of("prod")
    losses = list(lose_each(list_needs(app, most=False), machines_of(app)))
    assert [loss.silent for loss in losses] == [["fast", "strong"], []]
    assert [loss.left[ROUTER_NAME] for loss in losses] == [1, 1]
    for loss in losses:
        assert set(loss.lacking) == {ROUTER_NAME}, "both tiers come back on the other machine"


def test_no_machine_ends_a_tier_of_prod_ha() -> None:
    """Where Ray runs on the machines: whichever is lost, both tiers and a Router answer on."""
    app = app_of("prod-ha")
    for loss in lose_each(list_needs(app, most=False), machines_of(app)):
        assert loss.silent == []
    for loss in lose_each(list_needs(app, most=False), machines_of(app, spare=1)):
        assert loss.lacking == {}, "with one machine more, all of it comes back"


@pytest.mark.parametrize(("machines", "spread"), [(2, 1), (3, 1), (4, 1)])
def test_pods_of_prod_are_spread(machines: int, spread: int) -> None:
    """On Kubernetes fast and Routers outlive any machine; the only strong replica cannot."""
    silent = silent_pods(plan_pods(app_of("prod")), machines)
    assert sorted(silent)[:-1] == [[]] * (machines - 1)
    assert [name for names in silent for name in names] == ["strong"] * spread


@pytest.mark.parametrize("machines", [2, 3, 4])
def test_pods_of_prod_ha_outlive_any_machine(machines: int) -> None:
    """Both tiers and a Router answer on."""
    assert silent_pods(plan_pods(app_of("prod-ha")), machines) == [[]] * machines


def upgrade_fits(app: AppConfig, machines: int) -> bool:
    """Whether a second cluster has its places while the first one holds its own."""
    pools = plan_pods(app)
    first = spread_pods(pools, [MACHINE] * machines)
    free = [dict(AMOUNTS) for _ in range(machines)]
    for pool in pools:
        for (machine,) in first.nodes[pool.name]:
            free[machine]["CPU"] -= pool.cpus
            free[machine]["GPU"] -= pool.gpus
    return spread_pods(pools, [replace(MACHINE, free=left) for left in free]).lacking == {}


def test_an_upgrade_takes_what_the_config_needs_again() -> None:
    """prod: six GPUs more, on the same two machines; prod-ha: eleven more, on two others.

    On three machines 13 GPUs would be free, but nowhere the eight of two strong replicas.
    """
    assert upgrade_fits(app_of("prod"), 2)
    assert not upgrade_fits(app_of("prod-ha"), 3)
    assert upgrade_fits(app_of("prod-ha"), 4)


def test_pods_that_must_be_apart_wait_for_a_machine() -> None:
    """Two Routers on one machine would be lost with it."""
    routers = [pool for pool in plan_pods(app_of("prod")) if not pool.gpus]
    assert "router" in spread_pods(routers, []).lacking
    # Kubernetes compares machines: with a single one there is nothing to compare.
    assert spread_pods(routers, [MACHINE]).lacking == {}


def test_machines_are_chosen_by_what_a_tier_says_of_them() -> None:
    """A label that no machine has leaves no choice."""
    [pool, *_] = plan_pods(app_of("prod"))
    zoned = replace(pool, machines={"zone": "a"})
    assert spread_pods([zoned], [MACHINE]).lacking == {"fast": "2 pods do not fit the machines"}
    there = replace(MACHINE, labels={"zone": "a"})
    assert spread_pods([zoned], [MACHINE, there]).nodes == {"fast": [(1,), (1,)]}
