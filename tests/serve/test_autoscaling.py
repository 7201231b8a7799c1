"""The `llm` policy in Ray's own controller, on simulated GPU nodes: up under load, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from ray import serve

from serve_app.config.app import AppConfig
from tests.serve.service import free_port, wait_for
from tests.serve.simulated import STEP_S, build_simulated, gpu_cluster, gpu_node, ray_variables

pytestmark = [
    pytest.mark.serve,
    # The variable that Ray names instead has no effect in ray 2.60 (docs/autoscaling.md).
    pytest.mark.filterwarnings("ignore:.*metrics_interval_s:DeprecationWarning"),
]

CALLS = 8
TOKENS = 100
TIER = {
    "name": "fast",
    "model_id": "sim-fast",
    "model_source": "demo:fast",
    "placement": {"cpus_per_worker": 0.1, "cpus_per_server": 0.1},
    "replicas": {
        "policy": "llm",
        "min": 1,
        "max": 3,
        "start_s": 20,
        "prompt_tokens_per_s": 20_000,
        # So that the load, 8 calls of 50 tokens a second, is work for more than two.
        "output_tokens_per_s": 0.4 * CALLS / STEP_S,
        "downscale_delay_s": 30,
    },
}
ROUTER = {"cpus": 0.1, "replicas": {"min": 1, "max": 1}}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """One tier with room for four replicas."""
    with ray_variables(), gpu_cluster(gpu_node(4)):
        port = free_port()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        config = AppConfig.model_validate({"tiers": [TIER], "router": ROUTER})
        serve.run(build_simulated(config), name="llm")
        yield f"http://127.0.0.1:{port}"


def running() -> int:
    """Replicas that take calls, as Serve and its dashboard count them."""
    overview = serve.status().applications["llm"].deployments["tier-fast"]
    return overview.replica_states.get("RUNNING", 0)


async def test_replicas_follow_the_work(base_url: str) -> None:
    """More of them while calls keep one busy, and one again when the calls have ended."""
    assert running() == 1
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS}
    done = asyncio.Event()
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as http:

        async def work() -> None:
            while not done.is_set():
                answer = await http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text

        workers = [asyncio.create_task(work()) for _ in range(CALLS)]
        try:
            await asyncio.to_thread(
                wait_for, lambda: running() == 3, timeout_s=120, what="three replicas"
            )
        finally:
            done.set()
            await asyncio.gather(*workers)
    await asyncio.to_thread(
        wait_for, lambda: running() == 1, timeout_s=180, what="one replica again"
    )
