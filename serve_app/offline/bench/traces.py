"""`serve-app bench traces`: what traces cost a call, against a call's own work."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from serve_app.config.traces import TracesConfig
from serve_app.core.call import Decision, Endpoint, Reason, Record, Usage
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.traces.otlp import OtlpExporter
from serve_app.traces.tracer import SampledTracer

_ROUNDS = 5
_RATIOS = (0.0, 0.01, 0.1, 1.0)
_PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_BATCH = 1000
"""Calls between two sendings, about what a busy Router has in a second."""


def traces(
    calls: Annotated[int, typer.Option(min=1000, help="Calls of each round.")] = 10_000,
    call_us: Annotated[
        float,
        typer.Option(min=1, help="CPU time of a call without traces, from another benchmark."),
    ] = 1200.0,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Measure the CPU time that traces cost a call, by the share of calls that are traced."""
    check_outputs(log)
    machine = describe_machine()
    with running_sink() as endpoint:
        rows = [_measure(endpoint, ratio, calls, call_us) for ratio in _RATIOS]
    grid = Grid(
        f"CPU of the whole process for traces, medians of {_ROUNDS} rounds of {calls:,} calls; the "
        "collector is another process",
        ("sampled", "CPU us a call", f"of {call_us:,.0f} us a call"),
        rows,
    )
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench traces", [grid]))


def _measure(endpoint: str, ratio: float, calls: int, call_us: float) -> Sequence[str]:
    rounds = [asyncio.run(_time(endpoint, ratio, calls)) for _ in range(_ROUNDS)]
    each_us = 1e6 * median(rounds) / calls
    return f"{ratio:.0%}", f"{each_us:.1f}", f"{each_us / call_us:.2%}"


async def _time(endpoint: str, ratio: float, calls: int) -> float:
    """CPU seconds of all threads: notes, spans, and sending them."""
    config = TracesConfig(endpoint=endpoint, sample_ratio=ratio)
    tracer = SampledTracer(config, OtlpExporter(config, "bench"))
    gc.collect()
    began = time.process_time()
    for first in range(0, calls, _BATCH):
        for number in range(first, first + _BATCH):
            _call(tracer, number)
        await tracer.flush()
    took = time.process_time() - began
    await tracer.close()
    return took


def _call(tracer: SampledTracer, number: int) -> None:
    """What a call to one tier notes."""
    trace = tracer.begin(_PARENT)
    trace.note_received()
    trace.note_decided()
    exchange = trace.begin("fast")
    trace.render_for(exchange)
    exchange.leased_at = exchange.head_at = exchange.ended_at = time.time()
    record = Record(
        f"2a718035-f179-4704-adcd-{number:012}",
        Endpoint.CHAT,
        stream=True,
        decision=Decision("fast", "demo-fast", Reason.SIMPLE, 0.3694, 0.5),
        status=200,
        first_byte_s=0.05,
        total_s=2.0,
        usage=Usage(300, 200),
        trace=trace,
    )
    tracer.end(record, trace)


@contextmanager
def running_sink() -> Iterator[str]:
    """The endpoint of a collector that takes everything, in a process of its own."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve_sink, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1/traces"
    finally:
        process.terminate()
        process.join()


def serve_sink(told: Connection) -> None:
    """Answer every request with 200; says its port first."""
    server = HTTPServer(("127.0.0.1", 0), _Sink)
    told.send(server.server_port)
    server.serve_forever()


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""
