"""`serve-app bench overhead`: what the service costs before a bare engine, all on this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app import demo
from serve_app.bench.errors import BenchFailed
from serve_app.bench.generator import load_generator
from serve_app.bench.journal import append_section, print_report, render_section, write_json
from serve_app.bench.load import Load
from serve_app.bench.machine import describe_machine
from serve_app.bench.report import PEER, build_report
from serve_app.bench.runner import Plan, measure
from serve_app.bench.summary import Measurement
from serve_app.bench.targets import BUILDERS, HOST, MODEL_ID, build_responder

_ALL = ",".join(BUILDERS)
_CLIENTS = "1,16,32"
_WIDTH = 160
_WINDOW_S = 6.0
_QUICK_WINDOW_S = 2.0
_WARMUP_S = 1.5
_SHORT_TOKENS = 16
_LONG_TOKENS = 64
_TERMINATED = 128 + signal.SIGTERM


def overhead(
    quick: Annotated[
        bool, typer.Option("--quick", help="2 s a phase; nothing goes to the log.")
    ] = False,
    only: Annotated[str, typer.Option(help=f"Some of {', '.join(BUILDERS)}, with commas.")] = _ALL,
    clients: Annotated[str, typer.Option(help="Concurrent clients, with commas.")] = _CLIENTS,
    json: Annotated[Path | None, typer.Option(help="Write every number here too.")] = None,
    log: Annotated[Path, typer.Option(help="The log that gets a section.")] = Path(
        "docs/bench-log.md"
    ),
    lock: Annotated[
        Path | None,
        typer.Option(
            help="Hold this file locked while a server runs, on a machine that is shared."
        ),
    ] = None,
) -> None:
    """Measure this service, Ray Serve LLM and the bare engine, one after another, and compare."""
    # An exception, so that servers end in order and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    names = _parse_names(only)
    counts = _parse_counts(clients)
    machine = describe_machine()
    measurements: list[Measurement] = []
    failure: Exception | None = None
    try:
        loads = build_loads(counts, _QUICK_WINDOW_S if quick else _WINDOW_S)
        for runs in _measure_all(names, Plan(loads, demo.locate("fast"), lock, _say)):
            measurements += runs
    except (BenchFailed, demo.CheckpointMissing) as error:
        failure = error
    grids = build_report(measurements)
    print_report(Console(width=max(_WIDTH, Console().width)), machine, grids)
    if json is not None:
        write_json(json, machine, measurements)
    if failure is not None:
        _say(f"The run failed, and nothing goes to the log. {failure}")
        raise typer.Exit(1)
    if not quick:
        append_section(log, render_section(machine, _render_command(only, clients), grids))


def build_loads(counts: Sequence[int], window_s: float) -> list[Load]:
    """Short answers streamed and whole for every count, and long streams for the largest."""
    shapes = [(count, stream, _SHORT_TOKENS) for stream in (True, False) for count in counts]
    shapes.append((max(counts), True, _LONG_TOKENS))
    return [
        Load(
            host=HOST,
            port=0,
            model=MODEL_ID,
            clients=count,
            stream=stream,
            output_tokens=tokens,
            warmup_s=_WARMUP_S,
            window_s=window_s,
        )
        for count, stream, tokens in shapes
    ]


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _render_command(only: str, clients: str) -> str:
    """The command as the log names it: what changes the numbers, not where they go."""
    words = ["serve-app", "bench", "overhead"]
    words += [f"--only={only}"] if only != _ALL else []
    words += [f"--clients={clients}"] if clients != _CLIENTS else []
    return " ".join(words)


def _measure_all(names: Sequence[str], plan: Plan) -> Iterator[list[Measurement]]:
    """The peer runs first and again last: where its two runs differ, the machine has drifted."""
    with load_generator() as generator:
        yield measure(build_responder, plan, generator, "ceiling")
        for name in names:
            yield measure(BUILDERS[name], plan, generator, name)
        if PEER in names and len(names) > 1:
            yield measure(BUILDERS[PEER], plan, generator, f"{PEER} again")


def _parse_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in BUILDERS:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(BUILDERS)}")
    return names


def _parse_counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of numbers") from error
    if min(counts) < 1:
        raise typer.BadParameter("every number of clients must be at least 1")
    return counts
