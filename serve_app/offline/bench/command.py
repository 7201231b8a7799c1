"""`serve-app bench overhead`: the overhead of the service over a bare engine, on this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from serve_app import demo
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.grids import PEER, build_report
from serve_app.offline.bench.journal import append_section, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.phase import Phase
from serve_app.offline.bench.results import collect
from serve_app.offline.bench.runner import Plan, measure
from serve_app.offline.bench.summary import Measurement
from serve_app.offline.bench.targets import (
    BUILDERS,
    HOST,
    MODEL_ID,
    Builder,
    build_ours,
    build_responder,
)

_ALL = ",".join(BUILDERS)
_CLIENTS = "1,16,32"
_WINDOW_S = 6.0
_QUICK_WINDOW_S = 2.0
_WARMUP_S = 1.5
_SHORT_TOKENS = 16
_LONG_TOKENS = 64
_TERMINATED = 128 + signal.SIGTERM


def overhead(
    quick: Annotated[
        bool, typer.Option("--quick", help="Run each phase for 2 s; write nothing to the log.")
    ] = False,
    only: Annotated[
        str, typer.Option(help=f"Targets, separated by commas: {', '.join(BUILDERS)}.")
    ] = _ALL,
    clients: Annotated[
        str, typer.Option(help="Numbers of concurrent clients, separated by commas.")
    ] = _CLIENTS,
    long_tokens: Annotated[
        int, typer.Option(min=1, max=3000, help="Tokens of each long answer.")
    ] = _LONG_TOKENS,
    reuse_s: Annotated[
        float | None,
        typer.Option(min=0, help="`leases.reuse_s` of this service; 0: no lease is reused."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="JSON file for every number.")] = None,
    log: Annotated[Path, typer.Option(help="Log file to which a section is appended.")] = Path(
        "docs/bench-log.md"
    ),
    lock: Annotated[
        Path | None,
        typer.Option(help="Lock this file while a server runs, on a shared machine."),
    ] = None,
) -> None:
    """Measure this service, Ray Serve LLM and the bare engine in turn, and compare them."""
    # An exception, so that servers end in order and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    names, counts = _parse_names(only), parse_counts(clients)
    check_outputs(json, None if quick else log, lock)
    machine = describe_machine()
    phases = build_phases(counts, _QUICK_WINDOW_S if quick else _WINDOW_S, long_tokens)
    measurements, failure = collect(
        _measure_all(names, phases, lock, reuse_s), build_report, machine, json
    )
    if failure is not None:
        _say(f"The run failed; nothing is written to the log. {failure}")
        raise typer.Exit(1)
    if not quick:
        command = _render_command(only, clients, long_tokens, reuse_s)
        append_section(log, render_section(machine, command, build_report(measurements)))


def build_phases(
    counts: Sequence[int], window_s: float, long_tokens: int = _LONG_TOKENS
) -> list[Phase]:
    """Short answers, streamed and whole, for every count; long streams for the largest count."""
    shapes = [(count, stream, _SHORT_TOKENS) for stream in (True, False) for count in counts]
    shapes.append((max(counts), True, long_tokens))
    return [
        Phase(
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
    """A line of progress."""
    typer.echo(text, err=True)


def _render_command(only: str, clients: str, long_tokens: int, reuse_s: float | None) -> str:
    """The command for the log: the options that change the numbers, not the output files."""
    words = ["serve-app", "bench", "overhead"]
    words += [f"--only={only}"] if only != _ALL else []
    words += [f"--clients={clients}"] if clients != _CLIENTS else []
    words += [f"--long-tokens={long_tokens}"] if long_tokens != _LONG_TOKENS else []
    words += [f"--reuse-s={reuse_s:g}"] if reuse_s is not None else []
    return " ".join(words)


def _measure_all(
    names: Sequence[str], phases: Sequence[Phase], lock: Path | None, reuse_s: float | None
) -> Iterator[Measurement]:
    """The targets; the peer runs first and last, so that a drift of the machine shows."""
    plan = Plan(phases, demo.locate("fast"), lock, _say)
    leases = {} if reuse_s is None else {"reuse_s": reuse_s}
    ours: Builder = partial(build_ours, leases=leases)
    builders = {**BUILDERS, "ours": ours}
    with run_load_generator() as generator:
        yield from measure(build_responder, plan, generator, "ceiling")
        for name in names:
            yield from measure(builders[name], plan, generator, name)
        if PEER in names and len(names) > 1:
            yield from measure(builders[PEER], plan, generator, f"{PEER} again")


def _parse_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in BUILDERS:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(BUILDERS)}")
    return names
