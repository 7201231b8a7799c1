"""The spans of an ended call, made of the times that it noted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from serve_app.core.call import Outcome, Record
from serve_app.core.trace import ExchangeTrace, Trace, make_id

SCOPE = InstrumentationScope("serve_app")
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
NANOS = 1_000_000_000
FAULTS = frozenset({Outcome.SERVER_ERROR, Outcome.BROKEN_STREAM})
"""The outcomes that are our own fault."""

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that has ended, with its trace. The record does not change any more."""

    record: Record
    trace: Trace


def build_spans(ended: Ended, resource: Resource) -> Iterator[ReadableSpan]:
    """The span of the call, then those of its parts.

    Every name and attribute comes from a closed set or from the config, except the ids.
    """
    yield from _Spans(ended, resource).build()


class _Spans:
    """One call's spans."""

    def __init__(self, ended: Ended, resource: Resource) -> None:
        self._record = ended.record
        self._trace = ended.trace
        self._resource = resource
        self._begun_at = ended.record.arrived_at
        self._ended_at = ended.record.arrived_at + ended.record.total_s

    def build(self) -> Iterator[ReadableSpan]:
        trace = self._trace
        yield self._whole()
        if trace.received_at is not None:
            yield self._part("receive", self._begun_at, trace.received_at)
            if trace.decided_at is not None:
                yield self._part("decide", trace.received_at, trace.decided_at)
        for exchange in trace.exchanges:
            yield from self._exchange(exchange)
        if self._record.first_byte_s is not None:
            yield self._part("answer", self._begun_at + self._record.first_byte_s, self._ended_at)

    def _whole(self) -> ReadableSpan:
        """The call, from its arrival to its last byte."""
        record = self._record
        failed = record.outcome in FAULTS
        return self._span(
            f"POST {record.endpoint.value}",
            self._trace.span_id,
            self._trace.parent_id,
            (self._begun_at, self._ended_at),
            describe(record),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, record.code) if failed else Status(),
        )

    def _exchange(self, exchange: ExchangeTrace) -> Iterator[ReadableSpan]:
        """The wait for a place, and the engine's work, to which the engine's own spans belong."""
        until = exchange.ended_at or self._ended_at
        tier = {"serve_app.tier": exchange.tier}
        leased_at = exchange.leased_at
        yield self._part("lease", exchange.asked_at, leased_at or until, tier)
        if leased_at is None:
            return
        own, times = self._trace.span_id, (leased_at, until)
        yield self._span("engine", exchange.span_id, own, times, tier, kind=SpanKind.CLIENT)
        if exchange.head_at is not None:
            head = (leased_at, exchange.head_at)
            yield self._span("engine head", make_id(64), exchange.span_id, head, tier)

    def _part(
        self, name: str, begun_at: float, ended_at: float, attributes: Attributes | None = None
    ) -> ReadableSpan:
        times = (begun_at, ended_at)
        return self._span(name, make_id(64), self._trace.span_id, times, attributes or {})

    def _span(
        self,
        name: str,
        span_id: str,
        parent_id: str | None,
        times: tuple[float, float],
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> ReadableSpan:
        begun_at, ended_at = times
        return ReadableSpan(
            name,
            self._context(span_id),
            None
            if parent_id is None
            else self._context(parent_id, is_remote=kind is SpanKind.SERVER),
            self._resource,
            attributes,
            kind=kind,
            status=status or Status(),
            start_time=int(begun_at * NANOS),
            end_time=int(max(begun_at, ended_at) * NANOS),
            instrumentation_scope=SCOPE,
        )

    def _context(self, span_id: str, *, is_remote: bool = False) -> SpanContext:
        trace_id = int(self._trace.trace_id, 16)
        return SpanContext(trace_id, int(span_id, 16), is_remote=is_remote, trace_flags=SAMPLED)


def describe(record: Record) -> Attributes:
    """What the access log says of a call, under OpenTelemetry's names where it has some."""
    decision, usage = record.decision, record.usage
    found = {
        "http.request.method": "POST",
        "http.route": record.endpoint.value,
        "http.response.status_code": record.status,
        "gen_ai.request.model": None if decision is None else decision.model_id,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "serve_app.request_id": record.request_id,
        "serve_app.outcome": record.outcome.value,
        "serve_app.code": record.code,
        "serve_app.tier": None if decision is None else decision.tier,
        "serve_app.reason": None if decision is None else decision.reason.value,
        "serve_app.score": None if decision is None else decision.score,
        "serve_app.first_byte_s": record.first_byte_s,
        "serve_app.cache": None if record.cache is None else record.cache.value,
        "serve_app.stream": record.stream,
    }
    return {name: value for name, value in found.items() if value is not None}
