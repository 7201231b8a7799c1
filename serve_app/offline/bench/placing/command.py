"""`serve-app bench placing`: which replica a call goes to, on real engines."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from serve_app import demo
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section, write_json
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.ownership import Owned, owned
from serve_app.offline.bench.peers import install
from serve_app.offline.bench.placing.asking import Result, drive
from serve_app.offline.bench.placing.servers import BUILDERS, ENGINES, MODEL, Builder
from serve_app.offline.bench.placing.workloads import build_workloads
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.runner import find_free_port, locked, wait_ready
from serve_app.offline.bench.targets import HOST, Place, Target

_TERMINATED = 128 + signal.SIGTERM
_PERFECT = "one large cache"
_HEADER = (
    "server",
    "calls/s",
    "first token p50 ms",
    "first token p99 ms",
    "prompt tokens",
    "hits",
    "of perfect",
)


def placing(
    only: Annotated[
        str | None, typer.Option(help=f"Servers, separated by semicolons: {'; '.join(BUILDERS)}.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other texts for another seed.")] = 1,
    json: Annotated[Path | None, typer.Option(help="JSON file for every number.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(help="Lock this file while servers run, on a shared machine."),
    ] = None,
) -> None:
    """Compare the choices of a replica on three real engines with small prefix caches."""
    # An exception, so that servers end in order and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    names = parse_names(only)
    check_outputs(json, log, lock)
    machine, results, failures = describe_machine(), list[Result](), list[str]()
    for number, name in enumerate(names):
        try:
            with locked(lock):
                results += measure(name, BUILDERS[name], seed + 1000 * number)
        except BenchFailed as failure:
            failures.append(f"failed: {name}: {str(failure).splitlines()[0]}")
            typer.echo(f"{name}: {failure}", err=True)
    grids = build_grids(results)
    print_report(build_console(), machine, grids)
    if json is not None:
        write_json(json, machine, results)
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench placing", grids, failures))
    if failures:
        raise typer.Exit(1)


def parse_names(only: str | None) -> Sequence[str]:
    """The servers that the option names, in the order of the table."""
    if only is None:
        return list(BUILDERS)
    wanted = {name.strip() for name in only.split(";")}
    for name in wanted:
        if name not in BUILDERS:
            raise typer.BadParameter(f"'{name}' is none of: {'; '.join(BUILDERS)}")
    return [name for name in BUILDERS if name in wanted]


def measure(name: str, build: Builder, seed: int) -> Sequence[Result]:
    """All workloads on one kind of servers, which end afterwards.

    Raises:
        BenchFailed: a server did not start, or did not answer a call.
    """
    with running(build) as port:
        typer.echo(f"{name}: ready", err=True)
        url = f"http://{HOST}:{port}"
        results = []
        for workload in build_workloads(seed):
            results.append(asyncio.run(drive(name, url, MODEL, workload)))
            typer.echo(f"{name}: {workload.name}: {results[-1].calls_per_s:.1f} calls/s", err=True)
        return results


@contextmanager
def running(build: Builder) -> Iterator[int]:
    """The port of the servers while they run. Engines start together."""
    with (
        tempfile.TemporaryDirectory(prefix="placing-", dir="/tmp") as directory,
        ExitStack() as stack,
    ):
        scratch = Path(directory)
        port, metrics_port, *ports = (find_free_port() for _ in range(2 + ENGINES))
        place = Place(port, demo.locate(MODEL), scratch, metrics_port=metrics_port)
        servers = build(place, ports)
        engines = [_start(each, scratch, stack) for each in servers.engines]
        for engine, at in zip(engines, servers.ports, strict=True):
            wait_ready(engine, at, MODEL)
        if servers.front is not None:
            wait_ready(_start(servers.front, scratch, stack), port, MODEL)
        yield port


def _start(target: Target, scratch: Path, stack: ExitStack) -> Owned:
    if target.requirement is not None:
        install(target.requirement)
    target.write_config()
    log = scratch / f"{target.name}.log"
    return stack.enter_context(owned(target.name, target.command, target.env, log))


def build_grids(results: Sequence[Result]) -> Sequence[Grid]:
    """A table for each workload; hits also as a part of those of one large cache."""
    workloads = dict.fromkeys(result.workload for result in results)
    return [
        _build_grid(name, [result for result in results if result.workload == name])
        for name in workloads
    ]


def _build_grid(workload: str, results: Sequence[Result]) -> Grid:
    perfect = next((each.hit_ratio for each in results if each.server == _PERFECT), None)
    rows = [_row(each, perfect) for each in results]
    return Grid(f"{workload}: {results[0].calls} calls", _HEADER, rows)


def _row(result: Result, perfect: float | None) -> Sequence[str]:
    return (
        result.server,
        f"{result.calls_per_s:.1f}",
        f"{result.first_p50_ms:.0f}",
        f"{result.first_p99_ms:.0f}",
        f"{result.prompt_tokens:,}",
        f"{result.hit_ratio:.3f}",
        f"{result.hit_ratio / perfect:.2f}" if perfect else "-",
    )
