"""`serve-app bench overhead`: the overhead of the service over a bare engine, on this machine."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from serve_app import demo
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.grids import build_report
from serve_app.offline.bench.journal import append_section, render_section
from serve_app.offline.bench.machine import Cores, describe_machine, list_cores, split_cores
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.phase import Phase
from serve_app.offline.bench.results import collect
from serve_app.offline.bench.runner import Plan, measure, measure_rounds
from serve_app.offline.bench.summary import Measurement
from serve_app.offline.bench.targets import (
    BUILDERS,
    DEFAULTS,
    HOST,
    MODEL_ID,
    build_responder,
)

_ALL = ",".join(DEFAULTS)
_LOADS = "1x16,16x16,32x16,1x16w,16x16w,32x16w,32x64"
_LOAD = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})(w?)")
_TOKENS_MAX = 3000
_ROUNDS = 3
_WINDOW_S = 6.0
_QUICK_WINDOW_S = 2.0
_WARMUP_S = 1.5
_TERMINATED = 128 + signal.SIGTERM


def overhead(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One round, 2 s for each phase; nothing goes to the log."),
    ] = False,
    only: Annotated[
        str, typer.Option(help=f"Targets, separated by commas: {', '.join(BUILDERS)}.")
    ] = _ALL,
    loads: Annotated[
        str,
        typer.Option(
            help="Phases, separated by commas: clients x tokens of an answer; `w`: in one piece. "
            "`32x500` is 32 streams of 500 tokens."
        ),
    ] = _LOADS,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds; each starts every target once, in turn.")
    ] = _ROUNDS,
    cpus: Annotated[
        int,
        typer.Option(min=0, help="Cores of its own for the load generator, if there are enough."),
    ] = 0,
    stages: Annotated[
        bool,
        typer.Option("--stages", help="Also show where the time of a call of `ours` goes."),
    ] = False,
    json: Annotated[Path | None, typer.Option(help="JSON file for every number.")] = None,
    log: Annotated[Path, typer.Option(help="Log file to which a section is appended.")] = Path(
        "docs/bench-log.md"
    ),
    lock: Annotated[
        Path | None,
        typer.Option(help="Lock this file while a server runs, on a shared machine."),
    ] = None,
) -> None:
    """Measure this service, its rivals and the bare engine in turn, and compare them."""
    # An exception, so that servers end in order and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    names, window_s = parse_names(only), _QUICK_WINDOW_S if quick else _WINDOW_S
    phases, cores = build_phases(loads, window_s), split_cores(cpus, list_cores())
    check_outputs(json, None if quick else log, lock)
    _say(cores.note)
    machine, failures = describe_machine(), list[BenchFailed]()
    plan = Plan(phases, demo.locate("fast"), lock, _say, cores=cores.servers, stages=stages)
    runs = _measure_all(names, plan, cores, 1 if quick else rounds, failures)
    measurements, failure = collect(runs, build_report, machine, json)
    if measurements and not quick:
        command = _render_command(only, loads, rounds, cpus, stages)
        notes = [cores.note, *(f"failed: {str(fault).splitlines()[0]}" for fault in failures)]
        append_section(log, render_section(machine, command, build_report(measurements), notes))
    if failure is not None or failures:
        _say(f"The run failed in part; what was measured is kept. {failure or failures[0]}")
        raise typer.Exit(1)


def build_phases(loads: str, window_s: float) -> list[Phase]:
    """The phases that the option names, in its order."""
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
        for count, tokens, stream in map(_parse_load, loads.split(","))
    ]


def _parse_load(text: str) -> tuple[int, int, bool]:
    found = _LOAD.fullmatch(text.strip())
    if found is None or int(found[2]) > _TOKENS_MAX:
        raise typer.BadParameter(
            f"'{text}' is no load: clients x tokens, at most {_TOKENS_MAX}, as 16x64 or 16x64w"
        )
    return int(found[1]), int(found[2]), not found[3]


def _say(text: str) -> None:
    """A line of progress."""
    typer.echo(text, err=True)


def _render_command(only: str, loads: str, rounds: int, cpus: int, stages: bool) -> str:
    """The command for the log: the options that change the numbers, not the output files."""
    words = ["serve-app", "bench", "overhead"]
    words += [f"--only={only}"] if only != _ALL else []
    words += [f"--loads={loads}"] if loads != _LOADS else []
    words += [f"--rounds={rounds}"] if rounds != _ROUNDS else []
    words += [f"--cpus={cpus}"] if cpus else []
    words += ["--stages"] if stages else []
    return " ".join(words)


def _measure_all(
    names: Sequence[str], plan: Plan, cores: Cores, rounds: int, failures: list[BenchFailed]
) -> Iterator[Measurement]:
    """What the generator could do at most, then the targets."""
    builders = {name: BUILDERS[name] for name in names}
    with run_load_generator(cores.generator) as generator:
        yield from measure(build_responder, plan, generator, "ceiling")
        yield from measure_rounds(builders, plan, generator, rounds, failures)


def parse_names(text: str) -> list[str]:
    """The targets that the option names, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in BUILDERS:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(BUILDERS)}")
    return names
