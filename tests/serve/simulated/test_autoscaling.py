"""The `llm` policies in Ray's own controller, on simulated GPU nodes: up under load, and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.config.app import AppConfig
from tests.serve.service import wait_for
from tests.serve.simulated.cluster import SimulatedCluster
from tests.serve.simulated.policies import SPEED, FastForwardPolicy
from tests.serve.simulated.rates import STEP_S

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"
CALLS = 8
TOKENS = 100
RATE_RATIO = 0.45
"""What the policy is told that a replica writes, of what it writes in truth: so the calls below are
work for three."""
SCALED: dict[str, Any] = {
    "policy": "llm",
    "start_s": 1,
    "prompt_tokens_per_s": 20_000,
    "output_tokens_per_s": RATE_RATIO * CALLS / STEP_S,
    "downscale_delay_s": 1,
}
ROUTER = {"cpus": 0.1, "replicas": {"min": 1, "max": 1}}
FAST_GPUS, STRONG_GPUS = 1, 2
GPUS_MAX = 6
JOINT = {
    "policy_function": f"{FastForwardPolicy.__module__}:{FastForwardPolicy.__name__}",
    "policy_kwargs": {"tiers": ["fast", "strong"], "gpus_max": GPUS_MAX},
}
ALWAYS = {"days": ["mon-sun"], "from": "00:00", "to": "00:00", "timezone": "UTC", "min": 1}


def config_with(
    speed: float = 1.0, runtime: dict[str, Any] | None = None, **strong: Any
) -> AppConfig:
    """Two tiers on H100: the weaker one is always there, the stronger one when it is called.

    `speed` is that of the clock of their policy.
    """
    tier = {
        "model_source": "demo:fast",
        "accelerator_type": "H100",
        "placement": {"cpus_per_worker": 0.1, "cpus_per_server": 0.1},
    }
    rates = {name: SCALED[name] / speed for name in ("prompt_tokens_per_s", "output_tokens_per_s")}
    scaled = {**SCALED, **rates}
    replicas = {**scaled, "min": 0, "max": 2, "idle_s": 1, **strong}
    tiers = [
        {**tier, "name": "fast", "model_id": "sim-fast", "replicas": {**scaled, "max": 6}},
        {
            **tier,
            "name": "strong",
            "model_id": "sim-strong",
            "engine": {"tensor_parallel_size": STRONG_GPUS},
            "replicas": replicas,
        },
    ]
    document = {"tiers": tiers, "router": ROUTER, "runtime": runtime or {}}
    return AppConfig.model_validate(document)


def counts(cluster: SimulatedCluster) -> tuple[int, int]:
    """The running replicas of both tiers, as the dashboard shows them."""
    return cluster.running("fast"), cluster.running("strong")


async def until(cluster: SimulatedCluster, fast: int, strong: int) -> None:
    """Wait for so many replicas; never more than the GPUs that all tiers may hold."""

    def reached() -> bool:
        now = counts(cluster)
        assert now[0] * FAST_GPUS + now[1] * STRONG_GPUS <= GPUS_MAX
        return now == (fast, strong)

    what = f"{fast} replicas of fast and {strong} of strong"
    await asyncio.to_thread(wait_for, reached, timeout_s=180, what=what)


@asynccontextmanager
async def load(base_url: str, model: str) -> AsyncIterator[None]:
    """So many calls at a time, one after another, as long as the block lasts."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": TOKENS,
    }
    done = asyncio.Event()
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as http:

        async def work() -> None:
            while not done.is_set():
                answer = await http.post(CHAT, json=body)
                assert answer.status_code == 200, answer.text

        workers = [asyncio.create_task(work()) for _ in range(CALLS)]
        try:
            yield
        finally:
            done.set()
            await asyncio.gather(*workers)


async def test_both_tiers_follow_the_work(cluster: SimulatedCluster) -> None:
    """From zero by a call that is held, up within the bound of GPUs, and back to zero."""
    cluster.deploy(config_with(SPEED), policy=JOINT)
    await asyncio.to_thread(cluster.wait_running)
    assert counts(cluster) == (1, 0)
    async with load(cluster.base_url, "strong"), load(cluster.base_url, "fast"):
        await until(cluster, fast=2, strong=2)
    await until(cluster, fast=1, strong=0)


async def test_a_floor_holds_without_a_call(cluster: SimulatedCluster) -> None:
    """Each tier by a policy of its own: while its window is open a replica is there."""
    cluster.deploy(config_with(floors=[ALWAYS]))
    await asyncio.to_thread(cluster.wait_running)
    await until(cluster, fast=1, strong=1)
    async with load(cluster.base_url, "fast"):
        await asyncio.to_thread(
            wait_for, lambda: cluster.running("fast") >= 3, timeout_s=120, what="fast grows"
        )


def start_batch(base_url: str, model: str, lines: int) -> str:
    """A batch whose lines are as long as the calls of `load`."""
    message = {"role": "user", "content": "Hello"}
    body = {"model": model, "messages": [message], "max_tokens": TOKENS}
    content = [
        {"custom_id": f"c{n}", "method": "POST", "url": CHAT, "body": body} for n in range(lines)
    ]
    files = {"file": ("in.jsonl", "\n".join(map(json.dumps, content)))}
    with httpx.Client(base_url=base_url, timeout=60) as http:
        uploaded = http.post("/v1/files", files=files, data={"purpose": "batch"}).json()
        batch = {"input_file_id": uploaded["id"], "endpoint": CHAT, "completion_window": "24h"}
        return str(http.post("/v1/batches", json=batch).json()["id"])


def completed(base_url: str, batch_id: str) -> int:
    """How many lines have been answered."""
    answer = httpx.get(f"{base_url}/v1/batches/{batch_id}", timeout=60)
    return int(answer.json()["request_counts"]["completed"])


async def test_lines_add_no_replicas_but_in_their_hours(
    cluster: SimulatedCluster, tmp_path: Path
) -> None:
    """Work for three replicas stays on the one that is there; a tier without any gets one in its
    hours, and gives it back after the last line."""
    batches = {"directory": str(tmp_path / "batches"), "concurrency": CALLS}
    config = config_with(SPEED, {"batches": batches}, batch_floors=[ALWAYS])
    cluster.deploy(config, policy=JOINT)
    # The deployment before may leave more than the minimum for a while.
    await until(cluster, fast=1, strong=0)
    url = cluster.base_url
    batch_id = await asyncio.to_thread(start_batch, url, "fast", 96)
    while await asyncio.to_thread(completed, url, batch_id) < 96:
        assert counts(cluster) == (1, 0)
        await asyncio.sleep(0.5)
    await asyncio.to_thread(start_batch, url, "strong", 8)
    await until(cluster, fast=1, strong=1)
    await until(cluster, fast=1, strong=0)
