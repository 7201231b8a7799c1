"""Traces through the real gateway, to a collector over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.traces import TracesConfig
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import TierUnavailable
from serve_app.leases.client import UpstreamRequest
from serve_app.observe.access_log import render_line
from serve_app.steps import Steps
from serve_app.traces.build import build
from serve_app.traces.tracer import SampledTracer
from tests.fakes import FakeAnswer, FakeTier
from tests.gateway.conftest import Gateway
from tests.traces.collector import Collector, attributes, running_collector

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
STREAM = [
    b'data: {"choices":[{"index":0,"delta":{"content":"secret answer"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]


PARTS = ("receive", "decide", "lease", "answer")


class LeasingTier(FakeTier):
    """A tier that gets a place before it answers, as a real one does."""

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        assert request.trace is not None
        request.trace.leased_at = time.time()
        async with super().exchange(request, deadlines) as answer:
            yield answer


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@dataclass(frozen=True)
class FakePlan:
    """What a Router knows."""

    runtime: RuntimeConfig
    replica: str = "router-1"


def make_tracer(collector: Collector, **config: object) -> SampledTracer:
    fields = {"endpoint": collector.endpoint, "sample_ratio": 1, **config}
    return build(FakePlan(RuntimeConfig(traces=TracesConfig.model_validate(fields))))


@pytest.fixture
async def traced(gateway: Gateway, collector: Collector) -> Gateway:
    """A gateway whose every call is traced."""
    gateway.pipeline.steps = Steps(tracer=make_tracer(collector))
    return gateway


async def finish(gateway: Gateway) -> None:
    """Settle the calls, and send their traces."""
    for record in gateway.recorder.records:
        gateway.pipeline.settle(record)
    assert gateway.pipeline.steps.tracer is not None
    await gateway.pipeline.steps.tracer.close()


async def chat(gateway: Gateway, headers: dict[str, str] | None = None, **body: object) -> int:
    document = {"messages": [{"role": "user", "content": "secret prompt"}], **body}
    url = "/v1/chat/completions"
    return (await gateway.client.post(url, json=document, headers=headers)).status_code


async def test_one_trace_from_the_client_to_the_engine(
    traced: Gateway, collector: Collector
) -> None:
    """The client's span, the call, its parts, and the parent of the engine's own spans."""
    traced.fast.__class__ = LeasingTier
    traced.fast.answer = FakeAnswer(STREAM, content_type=b"text/event-stream")
    assert await chat(traced, PARENT, stream=True) == 200
    await finish(traced)
    spans = collector.by_name()
    assert set(spans) == {"POST /v1/chat/completions", *PARTS, "engine", "engine head"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    whole = spans["POST /v1/chat/completions"]
    assert (whole.parent_span_id.hex(), whole.kind) == (SPAN, Span.SPAN_KIND_SERVER)
    for name in (*PARTS, "engine"):
        assert spans[name].parent_span_id == whole.span_id
    assert spans["engine head"].parent_span_id == spans["engine"].span_id
    [request] = traced.fast.requests
    assert spans["engine"].span_id.hex().encode() in request.traceparent
    for span in spans.values():
        assert whole.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    told = attributes(whole)
    assert told["serve_app.tier"] == "fast"
    assert told["gen_ai.usage.output_tokens"] == 2
    assert told["http.response.status_code"] == 200
    [resource] = [each.resource for each in collector.requests[0].resource_spans]
    assert {each.key for each in resource.attributes} == {"service.name", "service.instance.id"}


async def test_no_text_is_in_a_trace(traced: Gateway, collector: Collector) -> None:
    """Neither the prompt nor the answer, nor a header of the client but its trace."""
    traced.fast.answer = FakeAnswer(STREAM, content_type=b"text/event-stream")
    await chat(traced, {**PARENT, "user-agent": "secret agent"}, stream=True)
    await finish(traced)
    assert collector.spans
    assert "secret" not in str(collector.requests)


async def test_the_engine_is_told_of_the_trace(traced: Gateway) -> None:
    """The parent of its spans is the exchange, and not the client's span."""
    await chat(traced, PARENT)
    [request] = traced.fast.requests
    [record] = traced.recorder.records
    assert record.trace is not None
    [exchange] = record.trace.exchanges
    assert request.traceparent == f"00-{TRACE}-{exchange.span_id}-01".encode()
    await finish(traced)


async def test_a_call_that_fails_shows_its_error(gateway: Gateway, collector: Collector) -> None:
    """Also where it was not chosen, with the code of our own error."""
    gateway.pipeline.steps = Steps(tracer=make_tracer(collector, sample_ratio=0))
    assert await chat(gateway) == 200
    gateway.fast.answer = gateway.strong.answer = TierUnavailable(retry_after_s=1)
    assert await chat(gateway) == 503
    await finish(gateway)
    [whole] = [span for span in collector.spans if span.name.startswith("POST")]
    assert whole.status.code == Status.STATUS_CODE_ERROR
    assert whole.status.message == "model_unavailable"
    assert attributes(whole)["http.response.status_code"] == 503


async def test_two_parents_are_none(traced: Gateway) -> None:
    """As the W3C's rules ask for: which of them is meant is not known."""
    headers = [("traceparent", PARENT["traceparent"]), ("traceparent", PARENT["traceparent"])]
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    await traced.client.post("/v1/chat/completions", json=body, headers=headers)
    [record] = traced.recorder.records
    assert record.trace is not None
    assert record.trace.parent_id is None
    await finish(traced)


async def test_the_access_log_has_the_trace(traced: Gateway) -> None:
    """So that a line leads to its trace."""
    await chat(traced, PARENT)
    [record] = traced.recorder.records
    assert render_line(record)["trace_id"] == TRACE
    await finish(traced)


async def test_without_traces_nothing_is_noted(gateway: Gateway) -> None:
    """A client's trace is not passed on, and the log has no id."""
    await chat(gateway, PARENT)
    [record] = gateway.recorder.records
    assert record.trace is None
    assert "trace_id" not in render_line(record)
    assert gateway.fast.requests[0].traceparent == b""


async def test_a_collector_that_refuses_delays_no_call(
    traced: Gateway, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answer is none of the client's concern."""
    collector.status = 400
    assert await chat(traced) == 200
    await finish(traced)
    assert collector.spans == []
    assert "the collector takes none" in caplog.text
