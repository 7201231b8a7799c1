"""Which metrics a Router has under a config: real calls through its parts, and no Ray."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.config.app import complete_runtime
from serve_app.config.reader import read_serve_config
from serve_app.config.runtime import RuntimeConfig
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import UpstreamFailed
from serve_app.core.load import TierLoad
from serve_app.feedback.tally import FeedbackTally
from serve_app.gateway.app import build_gateway
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.retries import RetryBudget
from serve_app.observe.access_log import AccessLog
from serve_app.observe.metrics import CallMetrics
from serve_app.observe.recorder import CallRecorder
from serve_app.pipeline import Pipeline
from serve_app.router import build_flushers
from serve_app.routing.choice import build_scorer
from serve_app.steps import NO_STEPS, Steps
from tests.cluster.exporters import SUFFIXES
from tests.fakes import FakeAnswer, FakeReadiness
from tests.routing.prompts import EASY_EN, HARD_EN

STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\ndata: [DONE]\n\n',
)
FAILS_EVERY = 50


class LoadedTier:
    """Answers streams and sometimes fails; its engines tell their load where they are asked."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self.down = False
        self._load = TierLoad(kv_free_ratio=0.5, replicas=1) if runtime.watches_load else TierLoad()
        self._calls = 0

    def load(self) -> TierLoad:
        return self._load

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        self._calls += 1
        if self._calls % FAILS_EVERY == 0:
            raise UpstreamFailed
        yield FakeAnswer(STREAM, content_type=b"text/event-stream")


async def find_produced(
    config: Path, log: Path, monkeypatch: pytest.MonkeyPatch, steps: Steps = NO_STEPS
) -> set[str]:
    """Ray's names of the metrics that a Router of this config has set after some traffic."""
    names = _listen(monkeypatch)
    serve_config = read_serve_config(config)
    tiers = serve_config.app.tiers
    runtime = complete_runtime(serve_config.runtime, tiers)
    engines = {tier.name: LoadedTier(runtime) for tier in tiers}
    pipeline = Pipeline(tiers, engines, build_scorer(runtime.routing), runtime, None, steps)
    leases = {name: lambda: (1, 0) for name in engines}
    flushers = build_flushers(pipeline, FeedbackTally(), RetryBudget(), {})
    recorder = CallRecorder(CallMetrics(), AccessLog(log), leases, flushers, settle=pipeline.settle)
    app = build_gateway(tiers, pipeline, recorder, FakeReadiness())
    await _call(app, runtime.routing.strong_ratio_window + 1)
    await recorder.close()
    return names


async def _call(app: object, times: int) -> None:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx's own ASGI type
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for number in range(times):
            prompts = EASY_EN if number % 2 else HARD_EN
            messages = [{"role": "user", "content": prompts[number % len(prompts)]}]
            body = {"messages": messages, "stream": True}
            await client.post("/v1/chat/completions", json=body)


def _listen(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    names: set[str] = set()

    def note(metric: Counter | Gauge | Histogram, value: float, *_: object) -> None:
        if not math.isnan(value):
            ends = SUFFIXES[type(metric).__name__.lower()]
            names.update(f"ray_{metric.info['name']}{end}" for end in ends)

    monkeypatch.setattr(Counter, "inc", note)
    monkeypatch.setattr(Gauge, "set", note)
    monkeypatch.setattr(Histogram, "observe", note)
    return names
