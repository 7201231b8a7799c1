"""An engine that only waits, behind the seam of ray.serve.llm."""

# ruff: noqa: E402  # vLLM's stand-in comes before what imports vLLM.
from __future__ import annotations

from tests.serve.simulated.stand_in import stand_in

stand_in()

import asyncio
from types import SimpleNamespace

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve_app.config.tiers import TierConfig
from serve_app.replica.meter import METER
from serve_app.replica.server import DataParallelTierServer, TierServer
from tests.serve.simulated.rates import CALLS_MAX, PREFILL_TOKENS_PER_S, STEP_S

FIRST_TOKEN_S = 0.001


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
        step = {"time_to_first_tokens_iter": [FIRST_TOKEN_S], "finished_requests": [ended]}
        self._tell(SimpleNamespace(**step))

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

    def routing_stats(self) -> dict[str, object]:
        """Nothing to route by."""
        return {}

    async def build_asgi_app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        tokens = body.get("max_tokens", 16)
        prompt_tokens = len(str(body["messages"])) // 4
        state = SimpleNamespace(
            prompt_len=prompt_tokens,
            request_index=0,
            detokenizer=SimpleNamespace(num_output_tokens=lambda: tokens),
            stats=SimpleNamespace(first_token_latency=FIRST_TOKEN_S),
        )
        if (meter := METER.get()) is not None:
            meter.add(state)
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

    def _close_media(self) -> None:
        """Nothing: there is no vLLM that could fetch."""


class SimulatedDataParallelTierServer(DataParallelTierServer):
    """The same for an engine of a group."""

    _default_engine_cls = SimulatedEngine

    def _close_media(self) -> None:
        """Nothing: there is no vLLM that could fetch."""


def choose_simulated(tier: TierConfig) -> type[TierServer]:
    """As `serve_app.deploy.build.choose_server`."""
    return SimulatedDataParallelTierServer if tier.data_parallel_size > 1 else SimulatedTierServer
