"""A GPU cluster without GPUs: real Ray nodes that claim to have them, and engines that only wait.

What is real: Ray's scheduler, Serve's controller and autoscaler, our Router, leases and HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve import Application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve_app.app import compose
from serve_app.config.app import AppConfig
from serve_app.config.environment import ray_environment
from serve_app.tiers.build import build_tier
from serve_app.tiers.server import TierServer

PREFILL_TOKENS_PER_S = 20_000.0
STEP_S = 0.02
CALLS_MAX = 64
"""Assumed: a token takes a step, whatever the batch, and so many calls fill the KV cache. The tests
look at where replicas are and how many, not at times."""


class SimulatedClient:
    """What TierServer wants of vLLM's client."""

    def __init__(self) -> None:
        self.logger_manager = SimpleNamespace(stat_loggers=[])
        self._running = 0

    def begin(self) -> None:
        """A call has come."""
        self._running += 1
        self._tell()

    def end(self, prompt_tokens: int, output_tokens: int) -> None:
        """It has been answered, or has left."""
        self._running -= 1
        ended = SimpleNamespace(
            num_prompt_tokens=prompt_tokens, num_generation_tokens=output_tokens
        )
        self._tell(SimpleNamespace(time_to_first_tokens_iter=[0.0], finished_requests=[ended]))

    def _tell(self, iteration: object = None) -> None:
        scheduler = SimpleNamespace(
            num_running_reqs=self._running,
            num_waiting_reqs=0,
            kv_cache_usage=self._running / CALLS_MAX,
        )
        for stat_logger in self.logger_manager.stat_loggers:
            stat_logger.record(scheduler, iteration)

    def generate(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("the simulated engine answers over HTTP only")

    def shutdown(self) -> None:
        """Nothing runs."""


class SimulatedEngine:
    """An engine of the `LLMServer` seam that takes the time of one and writes nonsense."""

    def __init__(self, llm_config: object) -> None:
        self._engine_client = SimulatedClient()

    async def start(self) -> None:
        """Nothing to load."""

    async def check_health(self) -> None:
        """Always well."""

    async def shutdown(self) -> None:
        """Nothing runs."""

    async def build_asgi_app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        tokens = body.get("max_tokens", 16)
        prompt_tokens = len(str(body["messages"])) // 4
        self._engine_client.begin()
        try:
            await asyncio.sleep(prompt_tokens / PREFILL_TOKENS_PER_S + tokens * STEP_S)
        finally:
            self._engine_client.end(prompt_tokens, tokens)
        message = {"role": "assistant", "content": "a " * tokens}
        return JSONResponse({"choices": [{"index": 0, "message": message}]})


class SimulatedTierServer(TierServer):
    """A replica as it is, but for its engine."""

    _default_engine_cls = SimulatedEngine


def build_simulated(config: AppConfig) -> Application:
    """The application with simulated engines in every tier."""
    tiers = {tier.name: build_tier(tier, SimulatedTierServer) for tier in config.tiers}
    return compose(config, tiers)


@contextmanager
def ray_variables() -> Iterator[None]:
    """What `serve-app env` sets on every node, as far as a test's own process bears it."""
    variables = ray_environment(haproxy=False)
    # With it the driver, which is this process, waits for all children: exit codes would be lost.
    del variables["RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def gpu_cluster(*nodes: dict[str, Any]) -> Iterator[Cluster]:
    """A head without GPUs and these nodes; all of it ends with the block."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    try:
        for node in nodes:
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
        yield cluster
    finally:
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        cluster.shutdown()


def gpu_node(gpus: int, kind: str = "H100", **labels: str) -> dict[str, Any]:
    """The arguments of `Cluster.add_node` for a node that claims so many GPUs."""
    return {
        "num_cpus": 16,
        "num_gpus": gpus,
        "resources": {f"accelerator_type:{kind}": 1},
        "labels": labels,
    }
