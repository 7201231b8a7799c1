"""The gateway over HTTP without Ray: real Starlette, real pipeline, a fake tier."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.gateway.app import build_gateway
from serve_app.pipeline import Pipeline
from serve_app.replica.asgi import ASGIApp
from serve_app.routing.scorer import HeuristicScorer
from tests.fakes import FakeReadiness, FakeRecorder, FakeTier

TIERS = (
    TierConfig(name="fast", model_id="demo-fast", engine={"max_model_len": 4096}),
    TierConfig(name="strong", model_id="demo-strong", engine={"max_model_len": 4096}),
)


@dataclass
class Gateway:
    """Everything a test may look at."""

    app: ASGIApp
    client: httpx.AsyncClient
    pipeline: Pipeline
    fast: FakeTier
    strong: FakeTier
    recorder: FakeRecorder
    readiness: FakeReadiness

    async def chat(self, **body: object) -> httpx.Response:
        document = {"messages": [{"role": "user", "content": "Hello"}], **body}
        return await self.client.post("/v1/chat/completions", json=document)


@pytest.fixture
def gateway() -> Gateway:
    """A gateway over two fake tiers."""
    fast, strong = FakeTier(), FakeTier()
    recorder, readiness = FakeRecorder(), FakeReadiness()
    pipeline = Pipeline(TIERS, {"fast": fast, "strong": strong}, HeuristicScorer(), RuntimeConfig())
    app = build_gateway(TIERS, pipeline, recorder, readiness)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    return Gateway(app, client, pipeline, fast, strong, recorder, readiness)
