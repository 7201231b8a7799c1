"""Limits over HTTP: what a caller is told, and what each endpoint's answer is charged."""

from __future__ import annotations

import httpx
import pytest

from serve_app.config.limits import LimitRuleConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import Record
from serve_app.core.caller import ANONYMOUS
from serve_app.gateway.app import build_gateway
from serve_app.limits.estimate import Estimator
from serve_app.limits.limiter import CallerLimiter
from serve_app.limits.rules import LimitRules
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from serve_app.steps import Steps
from tests.fakes import FakeAnswer, FakeReadiness, FakeTier
from tests.gateway.conftest import TIERS
from tests.limits.fakes import NOW, FakeCounters

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10}
COMPLETION = {"prompt": ["Hello", "Bye"], "max_tokens": 10, "n": 2}
RESPONSES = {"input": "Hello", "max_output_tokens": 10}
MESSAGES = {"model": "auto", **CHAT}
CHAT_DELTA = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
CHAT_END = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
RESPONSES_END = (
    b'event: response.completed\ndata: {"type":"response.completed","sequence_number":9,"response":'
    b'{"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":0},"output_tokens":5}}}'
    b"\n\n"
)
MESSAGES_START = (
    b'event: message_start\ndata: {"message":{"usage":{"input_tokens":7,"output_tokens":0}}}\n\n'
)
MESSAGES_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{},'
    b'"usage":{"input_tokens":7,"output_tokens":5}}\n\n'
)


class SettlingRecorder:
    """Settles every ended call at once, as the real recorder does when the usage is known."""

    pipeline: Pipeline

    def finish(self, record: Record) -> None:
        self.pipeline.settle(record)


class LimitedGateway:
    """A gateway whose callers share one rule."""

    def __init__(self, **amounts: int) -> None:
        self.tier, self.counters = FakeTier(), FakeCounters()
        self.limiter = CallerLimiter(
            LimitRules([LimitRuleConfig.model_validate({"per": "tenant", **amounts})], ""),
            Estimator(TIERS, None, unbounded_output_tokens=None, checkpoint_tokens=16),
            self.counters,
            "router-1",
            open_on_failure=False,
            clock=lambda: NOW / 1000,
        )
        recorder = SettlingRecorder()
        tiers = {"fast": self.tier, "strong": self.tier}
        recorder.pipeline = Pipeline(
            TIERS, tiers, HeuristicScorer(), RuntimeConfig(), None, Steps(limiter=self.limiter)
        )
        app = build_gateway(TIERS, recorder.pipeline, recorder, FakeReadiness())
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def used(self) -> list[int]:
        return [use.used for use in await self.limiter.describe(ANONYMOUS)]


async def test_the_call_beyond_the_limit_is_a_429() -> None:
    """In the dialect of the endpoint, with the time to wait and the state of the limits."""
    gateway = LimitedGateway(requests_per_min=1)
    first = await gateway.client.post("/v1/chat/completions", json=CHAT)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    second = await gateway.client.post("/v1/chat/completions", json=CHAT)
    assert second.status_code == 429
    assert second.headers["retry-after"] == "65"
    assert second.headers["x-ratelimit-limit-requests"] == "1"
    assert second.headers["x-ratelimit-reset-requests"] == "1m5s"
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    third = await gateway.client.post("/v1/messages", json=MESSAGES)
    assert third.status_code == 429
    assert third.json()["error"]["type"] == "rate_limit_error"
    assert third.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert len(gateway.tier.requests) == 1
    assert await gateway.used() == [1]


async def test_counters_out_of_reach_are_a_503() -> None:
    """Where the config says `closed`."""
    gateway = LimitedGateway(requests_per_min=1)
    gateway.counters.reachable = False
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "limits_unavailable"
    assert gateway.tier.requests == []


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        ("/v1/chat/completions", CHAT, [CHAT_DELTA, CHAT_END]),
        ("/v1/completions", COMPLETION, [CHAT_DELTA, CHAT_END]),
        ("/v1/responses", RESPONSES, [RESPONSES_END]),
        ("/v1/messages", MESSAGES, [MESSAGES_START, MESSAGES_END]),
        ("/v1/messages", MESSAGES, [MESSAGES_START + MESSAGES_END]),
    ],
)
async def test_a_stream_is_charged_to_the_token(
    path: str, body: dict[str, object], events: list[bytes]
) -> None:
    """Whichever event of its dialect reports the usage."""
    gateway = LimitedGateway(tokens_per_min=1000, calls_at_a_time=1)
    gateway.tier.answer = FakeAnswer(events, content_type=b"text/event-stream")
    answer = await gateway.client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200
    assert await gateway.used() == [12, 0]


@pytest.mark.parametrize(
    ("path", "body", "usage", "tokens"),
    [
        ("/v1/chat/completions", CHAT, b'{"prompt_tokens":7,"completion_tokens":5}', 12),
        ("/v1/responses", RESPONSES, b'{"input_tokens":7,"output_tokens":5}', 12),
        ("/v1/messages", MESSAGES, b'{"input_tokens":7,"output_tokens":5}', 12),
        ("/tokenize", {"prompt": "Hello"}, b"{}", 0),
    ],
)
async def test_a_whole_answer_is_charged_to_the_token(
    path: str, body: dict[str, object], usage: bytes, tokens: int
) -> None:
    """Also where the answer holds no generated tokens, or costs none."""
    gateway = LimitedGateway(tokens_per_min=1000)
    gateway.tier.answer = FakeAnswer([b'{"usage":' + usage + b"}"])
    assert (await gateway.client.post(path, json=body)).status_code == 200
    assert await gateway.used() == [tokens]


async def test_a_refusal_of_the_engine_is_a_request_and_no_more() -> None:
    """The reserved tokens come back."""
    gateway = LimitedGateway(tokens_per_min=1000, requests_per_min=5)
    gateway.tier.answer = FakeAnswer([b'{"error":{"message":"no","code":400}}'], status=400)
    assert (await gateway.client.post("/v1/chat/completions", json=CHAT)).status_code == 400
    assert await gateway.used() == [1, 0]


async def test_every_answer_of_a_call_is_reserved() -> None:
    """Two prompts with two choices each may have four answers of ten tokens."""
    gateway = LimitedGateway(tokens_per_min=40)
    answer = await gateway.client.post("/v1/completions", json=COMPLETION)
    assert answer.status_code == 429
    assert "the call may need" in answer.json()["error"]["message"]
