"""The numbers of the dashboard over two real Router replicas."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.config.app import AppConfig
from tests.serve.service import wait_for
from tests.serve.simulated.cluster import SimulatedCluster

pytestmark = pytest.mark.serve

DEMO = {"model_source": "demo:fast", "accelerator_type": "H100"}
SMALL = {"placement": {"cpus_per_worker": 0.1, "cpus_per_server": 0.1}}
CONFIG = AppConfig.model_validate(
    {
        "tiers": [
            {**DEMO, **SMALL, "name": "fast", "model_id": "sim-fast"},
            {**DEMO, **SMALL, "name": "strong", "model_id": "sim-strong"},
        ],
        "router": {"cpus": 0.1, "replicas": {"min": 2, "max": 2}},
        "runtime": {"pages": {"playground": True, "dashboard": True}},
    }
)
CALLS = 24


def read_numbers(cluster: SimulatedCluster) -> dict[str, Any]:
    """The first event of a stream of one of the Routers."""
    with httpx.stream("GET", f"{cluster.base_url}/dashboard/events", timeout=30) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            if line.startswith("data: "):
                found: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return found
    raise AssertionError("the stream has no event")


def test_one_page_shows_the_calls_of_all_routers(cluster: SimulatedCluster) -> None:
    """Each Router has had some of the calls, and whichever serves the page knows them all."""
    cluster.deploy(CONFIG)
    cluster.wait_running()
    wait_for(
        lambda: all(tier["engines"] for tier in read_numbers(cluster)["tiers"]),
        timeout_s=30,
        what="the engines tell their load before the first call",
    )
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    for _ in range(CALLS):  # each on a connection of its own, so that both Routers get some
        answer = httpx.post(f"{cluster.base_url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200

    def counted() -> dict[str, Any] | None:
        found = read_numbers(cluster)
        return found if found["calls"]["ended_ever"] == CALLS else None

    numbers = wait_for(counted, timeout_s=30, what="all calls are counted")
    assert numbers["missing"] == 0
    assert len(numbers["routers"]) == 2
    assert all(router["calls"] for router in numbers["routers"])
    assert [tier["name"] for tier in numbers["tiers"]] == ["fast", "strong"]
    assert all(tier["ready"] for tier in numbers["tiers"])
    for _ in range(4):
        assert len(read_numbers(cluster)["routers"]) == 2
