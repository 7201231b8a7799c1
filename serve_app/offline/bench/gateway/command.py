"""`serve-app bench gateway`: what a Router costs a chunk and a call, beside other gateways.

The engines answer with recorded bytes, one event a stream and step. The CPU time is that of each
process, from /proc, so other work on the machine hardly changes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from serve_app.offline.bench.bench_errors import RequestsFailed
from serve_app.offline.bench.clocks import Clocks
from serve_app.offline.bench.gateway.costs import PartSpent, Run, build_grids
from serve_app.offline.bench.gateway.memory import (
    STEP_S,
    Held,
    build_memory_grid,
    hold_streams,
    raise_file_limit,
    streams_max,
)
from serve_app.offline.bench.gateway.raw_engine import HOST
from serve_app.offline.bench.gateway.spent import read_spent
from serve_app.offline.bench.gateway.targets import (
    NAMES,
    Target,
    running_engines,
    start_targets,
)
from serve_app.offline.bench.generator import LoadGenerator, run_load_generator
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.phase import Outcome, Phase
from serve_app.offline.bench.results import collect
from serve_app.offline.bench.summary import percentile
from serve_app.offline.bench.targets import MODEL_ID

WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """What each target gets in each round."""

    clients: int
    lengths: Sequence[int]
    seconds: float
    rounds: int
    step_s: float


def gateway(
    only: Annotated[
        str, typer.Option(help=f"Targets, separated by commas: {', '.join(NAMES)}.")
    ] = ",".join(NAMES),
    clients: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 16,
    short: Annotated[int, typer.Option(min=1, help="Tokens of a short answer.")] = 16,
    long: Annotated[int, typer.Option(min=2, help="Tokens of a long answer.")] = 512,
    step_ms: Annotated[
        float, typer.Option(min=0, help="Time between two events of a stream; 0: at once.")
    ] = 4.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each run.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds, in turns.")] = 3,
    streams: Annotated[
        str, typer.Option(help="Numbers of open streams whose memory is read, by commas; 0: none.")
    ] = "0",
    json: Annotated[Path | None, typer.Option(help="JSON file for every number.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Measure a Router before an engine of recorded bytes, beside other gateways."""
    check_outputs(json, log)
    names = parse_names(only)
    machine = describe_machine()
    files = raise_file_limit()
    load = Load(clients, (short, long), seconds, rounds, step_ms / 1000)
    numbers = parse_streams(streams, streams_max(files))
    results: Iterator[Run | Held] = chain(measure(names, load), measure_memory(names, numbers))
    runs, failure = collect(results, build_report, machine, json)
    if failure is not None:
        typer.echo(f"The run failed; nothing is written to the log. {failure}", err=True)
        raise typer.Exit(1)
    if log is not None:
        command = f"serve-app bench gateway --only={','.join(names)} --clients={clients}"
        command += f" --short={short} --long={long} --step-ms={step_ms:g}"
        command += f" --seconds={seconds:g} --rounds={rounds} --streams={streams}"
        append_section(log, render_section(machine, command, build_report(runs)))


def build_report(results: Sequence[Run | Held]) -> list[Grid]:
    """The costs, then the memory."""
    runs = [one for one in results if isinstance(one, Run)]
    return [
        *build_grids(runs),
        *build_memory_grid([one for one in results if isinstance(one, Held)]),
    ]


def parse_streams(text: str, most: int) -> list[int]:
    """The numbers of streams, none above what the limit of open files allows."""
    if text == "0":
        return []
    asked = parse_counts(text)
    if max(asked) > most:
        typer.echo(f"At most {most:,} streams: each takes two files (ulimit -n).", err=True)
    return list(dict.fromkeys(min(number, most) for number in asked))


def parse_names(text: str) -> list[str]:
    """The targets to measure."""
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}; use {', '.join(NAMES)}")
    return names


def measure(names: Sequence[str], load: Load) -> Iterator[Run]:
    """Every target with every length, round by round.

    Raises:
        BenchFailed: a target did not start, or did not answer every request.
    """
    if not load.rounds:
        return
    with _started(names, load.step_s) as targets, run_load_generator() as generator:
        for number in range(load.rounds):
            for tokens in load.lengths:
                for target in targets:
                    yield _run(target, tokens, number, load, generator)


def measure_memory(names: Sequence[str], numbers: Sequence[int]) -> Iterator[Held]:
    """Each target with each number of streams, in processes that have done nothing else.

    Raises:
        BenchFailed: a target did not start, or did not answer every request.
    """
    for name in names:
        for number in numbers:
            with _started([name], STEP_S) as targets:
                yield from hold_streams(targets[0], number)


@contextmanager
def _started(names: Sequence[str], step_s: float) -> Iterator[Sequence[Target]]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        engines = stack.enter_context(running_engines(step_s, scratch))
        yield start_targets(names, engines, scratch, stack)


def _run(target: Target, tokens: int, number: int, load: Load, generator: LoadGenerator) -> Run:
    """One run, from before the first request until after the last byte.

    The engine counts the calls and chunks, so that the edges of a window play no part.
    """
    phase = Phase(
        HOST, target.port, MODEL_ID, load.clients, True, tokens, WARM_UP_S, load.seconds - WARM_UP_S
    )
    pids = {name: part.pids for name, part in target.parts.items()}
    before = {name: read_spent(ids) for name, ids in pids.items()}
    counted, began = target.read_counts(), perf_counter()
    outcome, _, _ = generator.run(phase, lambda: Clocks({}, 0.0))
    seconds = perf_counter() - began
    if outcome.errors:
        tail = next(iter(target.parts.values())).tail()
        raise RequestsFailed(target.name, phase.label, outcome.errors, tail)
    counts = target.read_counts()
    spent = {name: read_spent(ids) - before[name] for name, ids in pids.items()}
    return Run(
        target.name,
        number,
        tokens,
        counts.calls - counted.calls,
        counts.chunks - counted.chunks,
        seconds,
        _first_ms(outcome, 0.5),
        _first_ms(outcome, 0.99),
        {name: PartSpent(one.cpu_s, one.reads, one.writes) for name, one in spent.items()},
    )


def _first_ms(outcome: Outcome, share: float) -> float | None:
    """None where no answer ended within the window, which matters to no other number."""
    times = outcome.first_event_s
    return 1000 * percentile(times, share) if times else None
