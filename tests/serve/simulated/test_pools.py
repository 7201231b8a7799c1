"""The pods of a config as Ray nodes: all of it is placed there, and one of them may go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import ray

from serve_app.config.app import AppConfig
from serve_app.config.reader import IMPORT_PATH, ServeConfig
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.pools import NodePool, plan_pods
from serve_app.offline.manifests.deployed import deploy_document
from tests.serve.service import wait_for
from tests.serve.simulated.cluster import SimulatedCluster

pytestmark = pytest.mark.serve

DEMO = {"model_source": "demo:fast", "accelerator_type": "H100"}
SMALL = {"cpus_per_worker": 0.1, "cpus_per_server": 0.1}
ARGUMENTS: dict[str, Any] = {
    "tiers": [
        {
            **DEMO,
            "name": "fast",
            "model_id": "sim-fast",
            "placement": {**SMALL, "resources_per_replica": {"fast_slot": 1}},
            "replicas": {"min": 2, "max": 2},
        },
        {
            **DEMO,
            "name": "strong",
            "model_id": "sim-strong",
            "engine": {"tensor_parallel_size": 2},
            "placement": {**SMALL, "node_labels": {"rack": "!b"}},
        },
    ],
    "router": {"cpus": 0.1, "max_replicas_per_node": 1},
}


def node_of(pool: NodePool) -> dict[str, Any]:
    """The arguments of `Cluster.add_node` for a pod, as KubeRay passes them to `ray start`."""
    resources = dict(pool.resources)
    cpus, gpus = resources.pop("CPU"), resources.pop("GPU", 0)
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "resources": resources,
        "labels": dict(pool.labels),
    }


@pytest.fixture
def pods(cluster: SimulatedCluster) -> Iterator[dict[str, list[Any]]]:
    """A node for each pod of the config, by pool; they end with the test."""
    pools = plan_pods(AppConfig.model_validate(ARGUMENTS))
    nodes = {
        pool.name: [cluster.nodes.add_node(**node_of(pool)) for _ in range(pool.nodes_min)]
        for pool in pools
    }
    try:
        yield nodes
    finally:
        cluster.clear()
        for node in (node for of_pool in nodes.values() for node in of_pool):
            cluster.nodes.remove_node(node)


def deploy(cluster: SimulatedCluster) -> None:
    """What `serveConfigV2` holds."""
    app = AppConfig.model_validate(ARGUMENTS)
    application = {"name": "llm", "import_path": IMPORT_PATH, "args": ARGUMENTS}
    config = ServeConfig({"applications": [application]}, app, app.runtime)
    [deployed] = deploy_document(config, plan_pods(app))["applications"]
    [router] = deployed["deployments"]
    del router["name"]
    cluster.deploy(AppConfig.model_validate(deployed["args"]), router=router)
    cluster.wait_running()


def ask(cluster: SimulatedCluster, model: str) -> int:
    """The status of a call to a tier."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    return httpx.post(f"{cluster.base_url}/v1/chat/completions", json=body, timeout=60).status_code


def read_ready(cluster: SimulatedCluster) -> dict[str, dict[str, Any]]:
    """What `/ready` says, by tier."""
    body = httpx.get(f"{cluster.base_url}/ready", timeout=10).json()
    return {tier["name"]: tier for tier in body.get("tiers", [])}


def test_each_pod_gets_what_it_is_for(
    cluster: SimulatedCluster, pods: dict[str, list[Any]]
) -> None:
    """Engines and Router lie in their pools; with a pod lost its tier answers on, and says so."""
    deploy(cluster)
    pool_of = {node["NodeID"]: node["Labels"].get("pool") for node in ray.nodes()}
    wait_for(lambda: cluster.running("fast") == 2, timeout_s=60, what="both replicas run")
    for deployment, pool, count in (
        ("tier-fast", "fast", 2),
        ("tier-strong", "strong", 1),
        (ROUTER_NAME, "router", 1),
    ):
        nodes = cluster.nodes_of(deployment)
        assert (len(nodes), {pool_of[node] for node in nodes}) == (count, {pool})
    assert {ask(cluster, "fast"), ask(cluster, "strong")} == {200}
    cluster.nodes.remove_node(pods["fast"].pop(), allow_graceful=False)
    wait_for(lambda: cluster.running("fast") == 1, timeout_s=120, what="Serve has noticed")
    assert {ask(cluster, "fast") for _ in range(8)} == {200}
    said = wait_for(
        lambda: read_ready(cluster)["fast"]["message"], timeout_s=60, what="/ready explains"
    )
    assert said.startswith("a replica has no place: ")
    assert read_ready(cluster)["fast"]["ready"] is True
