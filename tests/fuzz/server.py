"""The gateway on a port of its own: real sockets, real uvicorn, no Ray and no engine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.app import build_gateway
from serve_app.gateway.edge import Edge
from serve_app.gateway.protocol import EdgeProtocol
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from tests.fakes import FakeReadiness, FakeRecorder
from tests.fuzz.engine import FakeEngineTier
from tests.gateway.conftest import TIERS as GATEWAY_TIERS

TIERS = (*GATEWAY_TIERS, TierConfig(name="embed", model_id="demo-embed", tasks=("embed", "score")))
STOP_S = 10.0


@contextmanager
def running_gateway(feedback_directory: Path) -> Iterator[str]:
    """The address of a gateway over two fake engines, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(_refuse_all, http=EdgeProtocol, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=asyncio.run, args=(_serve(server, listener, feedback_directory),)
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(STOP_S)
        assert not thread.is_alive(), f"the gateway did not stop within {STOP_S:g} s"


async def _serve(server: uvicorn.Server, listener: socket.socket, directory: Path) -> None:
    tiers = {tier.name: FakeEngineTier() for tier in TIERS}
    runtime = RuntimeConfig.model_validate(
        {"feedback": {"directory": str(directory), "sample_ratio": 0}}
    )
    feedback = FeedbackCollector(TIERS, tiers, runtime, "r1")
    pipeline = Pipeline(TIERS, tiers, HeuristicScorer(), runtime, feedback.labeller)
    recorder = FakeRecorder()
    gateway = build_gateway(TIERS, pipeline, recorder, FakeReadiness(), feedback=feedback)
    server.config.app = Edge(gateway)
    await server.serve(sockets=[listener])
    await feedback.close()


async def _refuse_all(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError("the gateway is built where the event loop runs")
