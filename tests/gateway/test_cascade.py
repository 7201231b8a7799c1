"""The cascade over HTTP without Ray: real Starlette, real pipeline, scripted tiers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from serve_app.config.cascade import CascadeConfig
from serve_app.config.runtime import DeadlinesConfig, RoutingConfig, RuntimeConfig
from serve_app.core.call import Outcome, Reason
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import (
    DeadlineExceeded,
    GatewayError,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
    WouldBeLate,
)
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.draft_report import DraftReport
from tests.fakes import FakeAnswer, FakeTier
from tests.gateway.conftest import Gateway

SURE = (math.log(0.99),) * 4
UNSURE = (math.log(0.99), math.log(0.1))
EVENT_STREAM = b"text/event-stream; charset=utf-8"
FAST_EVENTS = [b'data: {"choices":[{"delta":{"content":"fast"}}]}\n\n', b"data: [DONE]\n\n"]
STRONG_EVENTS = [
    b'data: {"choices":[{"delta":{"content":"strong"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\n',
    b"data: [DONE]\n\n",
]
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
}
every_endpoint = pytest.mark.parametrize("path", BODIES)
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


class SilentTier(FakeTier):
    """A tier whose answer does not begin."""

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        async with super().exchange(request, deadlines):
            await asyncio.Event().wait()
            yield self.answer  # type: ignore[misc]  # never reached


class TimedTier(FakeTier):
    """A tier that remembers the deadlines of its last exchange."""

    deadlines: Deadlines

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        self.deadlines = deadlines
        async with super().exchange(request, deadlines) as answer:
            yield answer


class SilentTimedTier(SilentTier, TimedTier):
    """Both."""


def draft(
    *chunks: bytes,
    logprobs: tuple[tuple[float, ...], ...] = (SURE,),
    stream: bool = True,
    error: GatewayError | None = None,
) -> FakeAnswer:
    """An answer as a replica gives it to a call that asked for a draft."""
    report = DraftReport(5, sum(map(len, logprobs)), logprobs)
    content_type = EVENT_STREAM if stream else b"application/json"
    headers = [(b"x-draft", report.render())]
    return FakeAnswer(chunks, content_type=content_type, headers=headers, error=error)


def stream_of(*chunks: bytes) -> FakeAnswer:
    return FakeAnswer(chunks, content_type=EVENT_STREAM)


async def ask(
    gateway: Gateway, path: str = "/v1/chat/completions", policy: str = "cascade", **body: object
) -> httpx.Response:
    document = {**BODIES[path], **body}
    return await gateway.client.post(path, json=document, headers={"x-route-policy": policy})


def configure(gateway: Gateway, deadlines: DeadlinesConfig | None = None, **cascade: float) -> None:
    routing = RoutingConfig(cascade=CascadeConfig.model_validate(cascade))
    gateway.pipeline.runtime = RuntimeConfig(
        routing=routing, deadlines=deadlines or DeadlinesConfig()
    )


def put(gateway: Gateway, tier: FakeTier, name: str = "fast") -> None:
    gateway.pipeline._tiers = {**gateway.pipeline._tiers, name: tier}


@every_endpoint
async def test_a_sure_draft_streams_on_untouched(gateway: Gateway, path: str) -> None:
    """Its bytes are the client's, on every endpoint, and the strong tier hears nothing."""
    gateway.fast.answer = draft(*FAST_EVENTS)
    response = await ask(gateway, path, stream=True)
    assert response.content == b"".join(FAST_EVENTS)
    assert response.headers["x-route-tier"] == "fast"
    assert response.headers["x-route-reason"] == "confident"
    assert response.headers["x-route-escalated"] == "false"
    assert float(response.headers["x-route-confidence"]) > 0.9
    assert "x-draft" not in response.headers
    assert not gateway.strong.requests
    record = gateway.recorder.records[0]
    assert record.draft is not None
    assert not record.draft.discarded
    assert (record.outcome, record.draft.usage.completion_tokens) == (Outcome.OK, 4)


@every_endpoint
@both_ways
async def test_an_unsure_draft_gives_way_to_the_strong_tier(
    gateway: Gateway, path: str, stream: bool
) -> None:
    """Not one of its bytes is seen; the usage is the answer's, the draft's is counted apart."""
    gateway.fast.answer = draft(*FAST_EVENTS, logprobs=(UNSURE,), stream=stream)
    whole = b'{"strong":1,"usage":{"prompt_tokens":5,"completion_tokens":9}}'
    gateway.strong.answer = stream_of(*STRONG_EVENTS) if stream else FakeAnswer([whole])
    response = await ask(gateway, path, stream=stream)
    assert b"strong" in response.content
    assert b"fast" not in response.content
    assert response.headers["x-route-tier"] == "strong"
    assert response.headers["x-route-model"] == "demo-strong"
    assert response.headers["x-route-reason"] == "escalated"
    assert response.headers["x-route-escalated"] == "true"
    assert response.headers["x-route-draft-tokens"] == "in=5, out=2"
    assert gateway.fast.open_exchanges == 0
    record = gateway.recorder.records[0]
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (5, 9)
    assert record.draft is not None
    assert record.draft.discarded
    assert (record.draft.usage.prompt_tokens, record.draft.usage.completion_tokens) == (5, 2)
    confidence = float(response.headers["x-route-confidence"])
    assert record.draft.confidence == pytest.approx(confidence, abs=1e-4)


async def test_the_draft_has_ended_before_the_strong_tier_begins(gateway: Gateway) -> None:
    """Its connection is dropped first, so no engine works for nobody."""
    open_drafts: list[int] = []

    class WatchingTier(FakeTier):
        @asynccontextmanager
        async def exchange(
            self, request: UpstreamRequest, deadlines: Deadlines
        ) -> AsyncIterator[FakeAnswer]:
            open_drafts.append(gateway.fast.open_exchanges)
            async with super().exchange(request, deadlines) as answer:
                yield answer

    put(gateway, WatchingTier(), "strong")
    gateway.fast.answer = draft(logprobs=(UNSURE,))
    assert (await ask(gateway)).status_code == 200
    assert open_drafts == [0]


async def test_each_engine_gets_the_callers_body_and_its_own_model(gateway: Gateway) -> None:
    """Nothing is added to the body; the draft alone is asked for by a header."""
    gateway.fast.answer = draft(logprobs=(UNSURE,))
    configure(gateway, checkpoint_tokens=24)
    asked = {"n": 2, "tools": [{"type": "function"}], "stop": ["."], "seed": 1, "logprobs": True}
    await ask(gateway, stream=False, **asked)
    (first,), (second,) = gateway.fast.requests, gateway.strong.requests
    expected = {**BODIES["/v1/chat/completions"], "stream": False, **asked}
    assert json.loads(first._body) == {**expected, "model": "demo-fast"}
    assert json.loads(second._body) == {**expected, "model": "demo-strong"}
    assert first._draft_tokens == b"24"
    assert second._draft_tokens == b""


async def test_the_least_sure_choice_decides(gateway: Gateway) -> None:
    """One unsure choice of several is enough to ask the strong tier."""
    gateway.fast.answer = draft(logprobs=(SURE, UNSURE, SURE))
    response = await ask(gateway, n=3)
    assert response.headers["x-route-reason"] == "escalated"
    gateway.fast.answer = draft(b"{}", logprobs=(SURE, SURE, SURE), stream=False)
    response = await ask(gateway, n=3)
    assert response.headers["x-route-reason"] == "confident"


@pytest.mark.parametrize(
    ("confidence_min", "logprobs", "reason"),
    [(0, UNSURE, "confident"), (0, (), "confident"), (1, (0.0,), "escalated")],
)
async def test_thresholds_of_0_and_1(
    gateway: Gateway, confidence_min: float, logprobs: tuple[float, ...], reason: str
) -> None:
    """0 releases every draft, 1 none."""
    configure(gateway, confidence_min=confidence_min)
    gateway.fast.answer = draft(b"{}", logprobs=(logprobs,), stream=False)
    assert (await ask(gateway)).headers["x-route-reason"] == reason


@pytest.mark.parametrize(
    "failure",
    [
        TierOverloaded(5),
        TierUnavailable(2),
        UpstreamFailed(),
        DeadlineExceeded("first byte", 1),
        stream_of(b'data: {"error":"before the checkpoint"}\n\n'),
    ],
    ids=["overloaded", "unavailable", "failed", "late", "event"],
)
@both_ways
async def test_a_draft_that_fails_is_replaced(
    gateway: Gateway, failure: FakeAnswer | GatewayError, stream: bool
) -> None:
    """Before a byte has gone out, the strong tier answers whatever happened to the fast one."""
    gateway.fast.answer = failure
    gateway.strong.answer = stream_of(*STRONG_EVENTS) if stream else FakeAnswer([b'{"strong":1}'])
    response = await ask(gateway, stream=stream)
    assert response.status_code == 200
    assert b"strong" in response.content
    assert response.headers["x-route-reason"] == "draft_failed"
    assert response.headers["x-route-escalated"] == "true"
    assert "x-route-confidence" not in response.headers
    assert gateway.fast.open_exchanges == 0


async def test_a_draft_that_would_be_late_is_noted(gateway: Gateway) -> None:
    """The strong tier answers, and the record says which tier would have been late."""
    gateway.fast.answer = WouldBeLate(retry_after_s=3)
    gateway.strong.answer = FakeAnswer([b'{"strong":1}'])
    assert (await ask(gateway)).headers["x-route-reason"] == "draft_failed"
    (record,) = gateway.recorder.records
    assert record.late_tiers == ["fast"]


async def test_a_whole_answer_that_breaks_off_is_replaced_too(gateway: Gateway) -> None:
    """It was sure, but none of it had been released."""
    gateway.fast.answer = draft(b'{"fa', stream=False, error=UpstreamFailed())
    gateway.strong.answer = FakeAnswer([b'{"strong":1}'])
    response = await ask(gateway)
    assert response.content == b'{"strong":1}'
    assert response.headers["x-route-reason"] == "draft_failed"


async def test_a_released_stream_that_breaks_says_so(gateway: Gateway) -> None:
    """After the first byte no other model takes over: the stream ends with an error event."""
    gateway.fast.answer = draft(FAST_EVENTS[0], error=UpstreamFailed())
    response = await ask(gateway, stream=True)
    assert response.content.startswith(FAST_EVENTS[0])
    assert b"upstream_failed" in response.content
    assert not gateway.strong.requests
    assert gateway.recorder.records[0].outcome is Outcome.BROKEN_STREAM


async def test_what_the_fast_engine_refuses_is_refused(gateway: Gateway) -> None:
    """A 4xx tells the client what is wrong with its body; no other engine is asked."""
    gateway.fast.answer = FakeAnswer([b'{"error":{"message":"top_p"}}'], status=400)
    response = await ask(gateway)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "top_p")
    assert response.headers["x-route-reason"] == "draft"
    assert not gateway.strong.requests


async def test_both_tiers_may_fail(gateway: Gateway) -> None:
    """Then the client gets the strong tier's error, and the headers of that attempt."""
    gateway.fast.answer, gateway.strong.answer = TierUnavailable(1), TierOverloaded(5)
    response = await ask(gateway)
    assert response.status_code == 503
    assert response.headers["x-route-tier"] == "strong"
    assert response.headers["x-route-escalated"] == "true"


async def test_an_escalated_call_falls_back(gateway: Gateway) -> None:
    """If the strong tier has no place for it, the fast one's answer is better than none."""
    gateway.fast.answer = draft(FAST_EVENTS[0], logprobs=(UNSURE,))
    gateway.strong.answer = TierOverloaded(5)
    response = await ask(gateway, stream=True)
    assert response.status_code == 200
    assert response.headers["x-route-reason"] == "fallback"
    assert len(gateway.fast.requests) == 2


async def test_a_draft_must_be_in_time(gateway: Gateway) -> None:
    """One that has not come to its checkpoint by then is dropped."""
    silent = SilentTier()
    put(gateway, silent)
    configure(gateway, checkpoint_s=0.01)
    response = await ask(gateway)
    assert response.headers["x-route-reason"] == "draft_failed"
    assert silent.open_exchanges == 0


async def test_deadlines_hold_over_both_together(gateway: Gateway) -> None:
    """They count from when the call came; where nothing is left, the strong tier is not asked."""
    drafting, strong = SilentTimedTier(), TimedTier()
    put(gateway, drafting)
    put(gateway, strong, "strong")
    configure(gateway, checkpoint_s=0.05)
    assert (await ask(gateway, stream=True)).status_code == 200
    assert strong.deadlines is drafting.deadlines
    strong.requests.clear()
    configure(gateway, DeadlinesConfig(first_byte_s=0.1), checkpoint_s=0.2)
    late = await ask(gateway, stream=True)
    assert late.status_code == 504
    assert "first byte limit of 0.1 s" in late.json()["error"]["message"]
    configure(gateway, DeadlinesConfig(total_s=0.1), checkpoint_s=0.2)
    assert (await ask(gateway)).status_code == 504
    assert not strong.requests


@pytest.mark.parametrize("stream", [True, False])
async def test_a_whole_draft_may_be_silent_after_its_checkpoint(
    gateway: Gateway, stream: bool
) -> None:
    """Its head comes early, its body only when it is complete."""
    gateway.fast.answer = draft(b"{}", stream=stream)
    await ask(gateway, stream=stream)
    (request,) = gateway.fast.requests
    assert request.silent is not stream


@pytest.mark.parametrize("held", ["draft", "strong"])
async def test_a_client_that_leaves_stops_whichever_engine_runs(
    gateway: Gateway, held: str
) -> None:
    """While the draft is held back, and while the strong tier is waited for."""
    silent = SilentTier()
    if held == "draft":
        put(gateway, silent)
    else:
        gateway.fast.answer = draft(logprobs=(UNSURE,))
        put(gateway, silent, "strong")
    asked = asyncio.create_task(ask(gateway, stream=True))
    async with asyncio.timeout(1):
        while not silent.open_exchanges:
            await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert silent.open_exchanges == gateway.fast.open_exchanges == 0
    record = gateway.recorder.records[0]
    assert record.outcome is Outcome.DISCONNECTED
    assert record.decision is not None
    assert record.decision.reason is (Reason.DRAFT if held == "draft" else Reason.ESCALATED)


async def test_clearly_hard_calls_pay_for_no_draft(gateway: Gateway) -> None:
    """From `draft_score_max` on the strong tier is asked at once."""
    configure(gateway, draft_score_max=0.05)
    response = await ask(gateway)
    assert response.headers["x-route-tier"] == "strong"
    assert response.headers["x-route-reason"] == "complex"
    assert "x-route-escalated" not in response.headers
    assert not gateway.fast.requests


@pytest.mark.parametrize("policy", ["best", "", "Cascade"])
async def test_an_unknown_policy_is_refused_by_name(gateway: Gateway, policy: str) -> None:
    """The error names the header and what it may hold."""
    response = await ask(gateway, policy=policy)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "x-route-policy"
    assert "complexity, cascade" in error["message"]


async def test_the_policy_of_the_config_can_be_overridden(gateway: Gateway) -> None:
    """A caller may ask for either, whatever the default is."""
    routing = RoutingConfig(policy="cascade")
    gateway.pipeline.runtime = RuntimeConfig(routing=routing)
    gateway.fast.answer = draft(b"{}", stream=False)
    assert (await gateway.chat()).headers["x-route-reason"] == "confident"
    response = await ask(gateway, policy="complexity")
    assert response.headers["x-route-reason"] == "simple"
    assert gateway.fast.requests[-1]._draft_tokens == b""


async def test_route_explains_a_draft(gateway: Gateway) -> None:
    """`/v1/route` says where a call would begin and who answers otherwise, and asks nobody."""
    response = await gateway.client.post(
        "/v1/route",
        json=BODIES["/v1/chat/completions"],
        headers={"x-route-policy": "cascade"},
    )
    answer = response.json()
    assert (answer["tier"], answer["reason"]) == ("fast", "draft")
    assert (answer["otherwise"]["tier"], answer["otherwise"]["reason"]) == ("strong", "escalated")
    assert not gateway.fast.requests


async def test_an_escalated_call_is_work_for_both_tiers(gateway: Gateway) -> None:
    """Autoscaling would otherwise never start a strong tier that only escalations reach."""
    gateway.fast.answer = draft(b"{}", logprobs=(UNSURE,), stream=False)
    for _ in range(3):
        await ask(gateway)
    assert gateway.pipeline.wanted == {"fast": 3, "strong": 3}
