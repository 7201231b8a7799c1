"""Which calls are traced, and what happens while the collector is away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from serve_app.config.traces import TracesConfig
from serve_app.core.call import Endpoint, Outcome, Record
from serve_app.traces.spans import Ended
from serve_app.traces.tracer import BATCH_MAX, SampledTracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class FakeExporter:
    """A collector that may be away."""

    def __init__(self) -> None:
        self.away = False
        self.sent: list[int] = []
        self.closed = False

    def send(self, ended: Sequence[Ended]) -> bool:
        if not self.away:
            self.sent.append(len(ended))
        return not self.away

    def close(self) -> None:
        self.closed = True


def make_tracer(
    exporter: FakeExporter, draws: Iterator[float] | None = None, **config: object
) -> SampledTracer:
    fields = {"endpoint": "http://127.0.0.1:1/v1/traces", **config}
    draw = (lambda: 0.5) if draws is None else draws.__next__
    return SampledTracer(TracesConfig.model_validate(fields), exporter, draw=draw, flush_s=0.001)


def end(tracer: SampledTracer, outcome: Outcome = Outcome.OK, parent: bytes | None = None) -> None:
    record = Record("r", Endpoint.CHAT, stream=True, outcome=outcome)
    tracer.end(record, tracer.begin(parent))


async def test_a_share_of_the_calls_is_traced() -> None:
    """Chosen when they arrive, so that the engine knows it too."""
    exporter = FakeExporter()
    tracer = make_tracer(exporter, iter([0.05, 0.15, 0.09, 0.95]), sample_ratio=0.1)
    for _ in range(4):
        end(tracer)
    await tracer.close()
    assert exporter.sent == [2]


@pytest.mark.parametrize(
    ("outcome", "errors", "sent"),
    [
        (Outcome.SERVER_ERROR, True, 1),
        (Outcome.BROKEN_STREAM, True, 1),
        (Outcome.SERVER_ERROR, False, 0),
        (Outcome.CLIENT_ERROR, True, 0),
        (Outcome.DISCONNECTED, True, 0),
    ],
)
async def test_a_call_that_fails_by_our_fault_is_traced(
    outcome: Outcome, errors: bool, sent: int
) -> None:
    """Although it was not chosen; a client can not have its calls traced by failing."""
    exporter = FakeExporter()
    tracer = make_tracer(exporter, sample_ratio=0, errors=errors)
    end(tracer, outcome)
    await tracer.close()
    assert sum(exporter.sent) == sent


@pytest.mark.parametrize(
    ("follow", "flags", "sampled"),
    [(False, "01", False), (True, "01", True), (True, "00", False)],
)
def test_a_client_chooses_only_where_it_is_trusted(follow: bool, flags: str, sampled: bool) -> None:
    """Its trace is continued in either case."""
    tracer = make_tracer(FakeExporter(), sample_ratio=0.1, follow_parent=follow)
    trace = tracer.begin(f"00-{TRACE}-{SPAN}-{flags}".encode())
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (TRACE, SPAN, sampled)
    assert trace.span_id != SPAN


def test_an_invalid_parent_begins_a_new_trace() -> None:
    """As without one."""
    trace = make_tracer(FakeExporter()).begin(b"00-0-0-01")
    assert trace.parent_id is None
    assert len(trace.trace_id) == 32


async def test_what_waits_is_bounded_and_sent_in_batches() -> None:
    """What is more is lost."""
    exporter = FakeExporter()
    tracer = make_tracer(exporter, sample_ratio=1, waiting_max=BATCH_MAX + 10)
    for _ in range(BATCH_MAX + 100):
        end(tracer)
    await tracer.close()
    assert exporter.sent == [BATCH_MAX, 10]
    assert exporter.closed


async def test_a_collector_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """And once more when it is back, with the number of lost traces."""
    exporter = FakeExporter()
    exporter.away = True
    tracer = make_tracer(exporter, sample_ratio=1)
    for away in (True, True, False, False):
        exporter.away = away
        end(tracer)
        await tracer.flush()
    await tracer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "traces: the collector takes none; traces are lost until it does",
        "traces: the collector is back; lost: 2",
    ]
    assert exporter.sent == [1, 1]


async def test_traces_are_sent_while_calls_go_on() -> None:
    """About once a second, without a call's help; starting twice changes nothing."""
    exporter = FakeExporter()
    tracer = make_tracer(exporter, sample_ratio=1)
    tracer.start()
    tracer.start()
    end(tracer)
    while not exporter.sent:
        await tracer.flush()
    await tracer.close()
    assert exporter.sent == [1]
