"""Where replicas land on a cluster of simulated GPU nodes, and what is said where they cannot."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray.util import placement_group, placement_group_table, remove_placement_group

from serve_app.config.app import AppConfig
from serve_app.config.tiers import PlacementConfig, TierConfig
from serve_app.deploy.cluster_nodes import count_placed, read_groups, read_rooms
from serve_app.deploy.fit import explain_misfit
from serve_app.deploy.plan import plan_need
from tests.serve.service import tool, wait_for
from tests.serve.simulated.cluster import SimulatedCluster, gpu_node

pytestmark = pytest.mark.serve

ROUTER = {"cpus": 0.1, "replicas": {"min": 1, "max": 1}}
SMALL = {"cpus_per_worker": 0.1, "cpus_per_server": 0.1}


def tier(name: str, tensor: int = 1, pipeline: int = 1, **fields: Any) -> TierConfig:
    """A tier of the demo model on H100."""
    return TierConfig.model_validate(
        {
            "name": name,
            "model_id": f"sim-{name}",
            "model_source": "demo:fast",
            "accelerator_type": "H100",
            "engine": {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline},
            "placement": SMALL,
            **fields,
        }
    )


@contextmanager
def placed(config: TierConfig) -> Iterator[list[str] | None]:
    """The nodes of a replica's workers in their order, None if Ray finds no room within 2 s."""
    need = plan_need(config)
    selector = [dict(need.labels)] * len(need.bundles) if need.labels else None
    group = placement_group(
        [dict(bundle) for bundle in need.bundles],
        strategy=need.strategy,
        bundle_label_selector=selector,
    )
    try:
        nodes = placement_group_table(group)["bundles_to_node_id"] if group.wait(2) else None
        yield nodes and [nodes[index] for index in sorted(nodes)]
    finally:
        remove_placement_group(group)
        wait_for(
            lambda: placement_group_table(group)["state"] == "REMOVED",
            timeout_s=10,
            what="the group is removed",
        )


PLACEABLE = {
    "TP 4": (tier("a", 4), [4]),
    "TP 2, PP 2, one node": (tier("a", 2, 2), [4]),
    "TP 4, PP 2, two nodes": (
        tier("a", 4, 2, placement=PlacementConfig(gpus_per_node=4, **SMALL)),
        [4, 4],
    ),
    "L4": (tier("a", 2, accelerator_type="L4"), [2]),
    "zone b": (tier("a", 4, placement=PlacementConfig(node_labels={"zone": "b"}, **SMALL)), [4]),
}
UNPLACEABLE = {
    "TP 8": (tier("a", 8), "it needs 8 GPU on one node, and the largest of 4 nodes has 4"),
    "TP 4 on L4": (
        tier("a", 4, accelerator_type="L4"),
        "it needs 4 GPU on one node",
    ),
    "B200": (tier("a", accelerator_type="B200"), "has GPUs of the type B200; there are H100, L4"),
    "zone c": (
        tier("a", placement=PlacementConfig(node_labels={"zone": "c"}, **SMALL)),
        "no node has the labels zone=c; there are zone=a (1 node), zone=b (2 nodes)",
    ),
    "PP 3": (
        tier("a", 4, 3, placement=PlacementConfig(gpus_per_node=4, **SMALL)),
        "it needs 12 GPU together",
    ),
}


@pytest.mark.parametrize(("config", "by_node"), PLACEABLE.values(), ids=PLACEABLE)
def test_where_workers_land(
    cluster: SimulatedCluster, config: TierConfig, by_node: list[int]
) -> None:
    """Every tensor-parallel group lies on one node, and stages go to others only if they must."""
    with placed(config) as nodes:
        assert nodes is not None
        assert sorted(Counter(nodes).values()) == by_node
    assert explain_misfit(plan_need(config), read_rooms(read_groups())) is None


@pytest.mark.parametrize(("config", "words"), UNPLACEABLE.values(), ids=UNPLACEABLE)
def test_what_cannot_be_placed(cluster: SimulatedCluster, config: TierConfig, words: str) -> None:
    """Ray waits without a word; we say what is missing, and agree with it."""
    with placed(config) as nodes:
        assert nodes is None
    said = explain_misfit(plan_need(config), read_rooms(read_groups()))
    assert said is not None
    assert words in said


def test_slots_spread_replicas_over_zones(cluster: SimulatedCluster) -> None:
    """With one slot in each of two zones, two replicas lie in different ones; a third waits."""
    zones = {node["NodeID"]: node["Labels"].get("zone") for node in ray.nodes()}
    config = tier("a", placement=PlacementConfig(resources_per_replica={"zone_slot": 1}, **SMALL))
    with placed(config) as first, placed(config) as second, placed(config) as third:
        assert first is not None
        assert second is not None
        assert {zones[first[0]], zones[second[0]]} == {"a", "b"}
        assert third is None
        said = explain_misfit(plan_need(config), read_rooms(read_groups()))
        assert said is not None
        assert "zone_slot" in said


def test_engines_share_gpus(cluster: SimulatedCluster) -> None:
    """A quarter and three quarters come onto one GPU, so that two such pairs fit on two."""
    fixed = {"kv_cache_memory_bytes": 2**30}
    small, large = (
        tier("a", accelerator_type="L4", engine=fixed, placement={**SMALL, "gpus_per_worker": part})
        for part in (0.25, 0.75)
    )
    with placed(small) as a, placed(large) as b, placed(small) as c, placed(large) as d:
        assert None not in (a, b, c, d)
        with placed(small) as fifth:
            assert fifth is None
            said = explain_misfit(plan_need(small), read_rooms(read_groups()))
        assert said is not None
        assert "0.25 GPU" in said


def gpus_of(deployment: str) -> list[dict[str, int]]:
    """For each replica of a deployment, its GPUs by node."""
    return [
        dict(
            Counter(
                group["bundles_to_node_id"][index]
                for index, bundle in group["bundles"].items()
                if "GPU" in bundle
            )
        )
        for group in read_groups().values()
        if deployment in group["name"] and group["state"] == "CREATED"
    ]


def ask(cluster: SimulatedCluster, model: str) -> str:
    """What a tier answers."""
    answer = httpx.post(
        f"{cluster.base_url}/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    )
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


CONFIG = AppConfig.model_validate(
    {
        "tiers": [
            tier("fast", replicas={"min": 2, "max": 2}),
            tier("strong", 4, replicas={"min": 1, "max": 1}),
        ],
        "router": ROUTER,
    }
)


def tiers_of(cluster: SimulatedCluster) -> dict[str, dict[str, Any]]:
    """What `/ready` says, by tier; nothing while there is no Router."""
    body = httpx.get(f"{cluster.base_url}/ready", timeout=10).json()
    return {tier["name"]: tier for tier in body.get("tiers", [])}


def router_log() -> str:
    """What the dashboard shows as the log of a Router."""
    logs = Path("/tmp/ray/session_latest/logs/serve").glob("*Router*.log")
    return "".join(path.read_text() for path in logs)


def test_small_replicas_leave_room_for_a_large_one(cluster: SimulatedCluster) -> None:
    """Two replicas of one GPU share a node, so that the other one takes four together."""
    cluster.deploy(CONFIG, replicas={"strong": 1})
    cluster.wait_running()
    [strong] = gpus_of("tier-strong")
    fast = gpus_of("tier-fast")
    assert list(strong.values()) == [4]
    assert [list(replica.values()) for replica in fast] == [[1], [1]]
    assert len({node for replica in fast for node in replica}) == 1
    assert ask(cluster, "strong") == "a a "


def test_a_replica_without_a_place_is_explained(cluster: SimulatedCluster) -> None:
    """`/ready` says within 30 s what is missing; with one more node it is placed."""
    cluster.deploy(CONFIG, replicas={"strong": 2})
    said = wait_for(
        lambda: tiers_of(cluster)["strong"]["message"], timeout_s=30, what="/ready explains"
    )
    assert said.startswith("a replica has no place: it needs 4 GPU free on one node")
    assert "has 2 of 4 (GPUs held there: tier-fast 2)" in said
    assert tiers_of(cluster)["strong"]["ready"] is True
    assert f"tier strong: replicas that run: 1; {said}" in router_log()
    cluster.nodes.add_node(**gpu_node(4, zone="c"))
    wait_for(
        lambda: tiers_of(cluster)["strong"]["replicas"] == 2, timeout_s=120, what="it is placed"
    )
    assert tiers_of(cluster)["strong"]["message"] is None
    assert [list(replica.values()) for replica in gpus_of("tier-strong")] == [[4], [4]]


def test_the_doctor_looks_at_the_cluster(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """Every node is asked, and a tier without room is an error that says what is missing."""
    tiers = [tier("fast"), tier("huge", 8), tier("medium", 4)]
    document = {
        "applications": [
            {
                "import_path": "serve_app.app:build",
                "args": {
                    "tiers": [
                        config.model_dump(mode="json", exclude_unset=True) for config in tiers
                    ]
                },
            }
        ]
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    asked = [tool("serve-app"), "doctor", str(path), "--address", cluster.nodes.address, "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    findings = {
        (found["check"], found["level"]): found["what"] for found in json.loads(done.stdout)
    }
    assert ("nodes", "ok") in findings
    assert "8 GPU on one node" in findings["placement of huge", "error"]
    assert ("placement of fast", "error") not in findings
    assert ("placement of Router", "ok") in findings
    asked = {level for check, level in findings if check.startswith("node ")}
    assert asked == {"warning"}, "the variables that `ray_variables` leaves out, and no more"


def test_engines_that_share_experts_come_as_one_group(cluster: SimulatedCluster) -> None:
    """Serve counts two replicas, and Ray has placed both with one placement group."""
    engine = {"data_parallel_size": 2}
    mixture = tier("mixture", accelerator_type="L4", engine=engine, replicas={"min": 1, "max": 1})
    cluster.deploy(AppConfig.model_validate({"tiers": [mixture], "router": ROUTER}))
    wait_for(lambda: cluster.running("mixture") == 2, timeout_s=120, what="the group runs")
    [group] = gpus_of("tier-mixture")
    assert list(group.values()) == [2]
    assert count_placed(read_groups(), "tier-mixture") == 1
    wait_for(
        lambda: tiers_of(cluster).get("mixture", {}).get("replicas") == 2,
        timeout_s=60,
        what="the new Router answers and counts both",
    )
    assert ask(cluster, "mixture") == "a a "
