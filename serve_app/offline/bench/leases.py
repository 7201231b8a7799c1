"""`serve-app bench leases`: a Router's own work per call, by replicas and waiting calls."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.lease_trials import TRIALS
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import ratio

_COUNTS = "1,100,1000"
_WAITERS = "100,1000,20000"

Trial = Callable[[int], Awaitable[float]]


def leases(
    counts: Annotated[
        str, typer.Option(help="Numbers of replicas or sessions, separated by commas.")
    ] = _COUNTS,
    waiters: Annotated[
        str, typer.Option(help="Numbers of waiting calls, separated by commas.")
    ] = _WAITERS,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of each trial; the fastest round counts.")
    ] = 3,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Time a Router's own work per call, without Ray: leases, connections, load, sessions."""
    sizes, queues = parse_counts(counts), parse_counts(waiters)
    check_outputs(log)
    machine = describe_machine()
    measured = {
        name: measure(trial, queues if queued else sizes, rounds)
        for name, (trial, queued) in TRIALS.items()
    }
    grid = build_grid(measured)
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench leases", [grid]))


def measure(trial: Trial, sizes: Sequence[int], rounds: int) -> Mapping[int, float]:
    """Microseconds of one operation by size: the fastest round, disturbed the least."""
    seconds = {size: min(_run(trial, size) for _ in range(rounds)) for size in sizes}
    return {size: 1e6 * value for size, value in seconds.items()}


def _run(trial: Trial, size: int) -> float:
    async def once() -> float:
        return await trial(size)

    with _paused_collection():
        return uvloop.run(once())


@contextmanager
def _paused_collection() -> Iterator[None]:
    """Keep the garbage collector out of the figures, as `timeit` does.

    A full collection walks every object of the process. Its time follows from what else the
    process holds and would be charged to whichever operation it interrupts.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def build_grid(measured: Mapping[str, Mapping[int, float]]) -> Grid:
    """A row for each trial; the last column is the largest size as a multiple of the smallest."""
    sizes = sorted({size for by_size in measured.values() for size in by_size})
    rows = []
    for name, by_size in measured.items():
        cells = [f"{by_size[size]:.1f}" if size in by_size else "-" for size in sizes]
        rows.append((name, *cells, f"{ratio(by_size[max(by_size)], by_size[min(by_size)]):.1f}"))
    header = ("operation", *(f"n = {size:,}" for size in sizes), "largest n : smallest n")
    return Grid("CPU microseconds an operation, in one thread", header, rows)
