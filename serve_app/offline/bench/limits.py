"""`serve-app bench limits`: what limits add to a call, over Redis and over the owner of counters.

All kinds of counters run in turns in one process, so that other load affects all alike.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Annotated

import typer
import uvloop

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.limit_trials import (
    Call,
    over_owner,
    over_peer,
    over_redis,
    peer_name,
    run_ray,
    run_redis,
)
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import percentile, ratio

P50_GOAL_MS, P99_GOAL_MS = 1.0, 3.0
OURS_REDIS = "Redis"
OURS_OWNER = "owner (Ray actor)"
SEED = 13
HEADER = ("counters", "callers", "p50 ms", "p99 ms", "x peer (p50)", "CPU ms a call", "goal")


@dataclass(slots=True)
class Sample:
    """The seconds of every call, and the CPU seconds that this process spent in all of them."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


Samples = Mapping[tuple[str, int], Sample]
"""By the name of the counters and the number of callers."""


def limits(
    calls: Annotated[int, typer.Option(min=10, help="Calls of each caller in a round.")] = 500,
    callers: Annotated[str, typer.Option(help="Callers at a time, separated by commas.")] = "1,16",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in turns.")] = 3,
    pause_ms: Annotated[
        float, typer.Option(min=0, help="Mean pause of each caller between two calls.")
    ] = 10.0,
    owner: Annotated[
        bool, typer.Option("--owner/--no-owner", help="Measure the owner too; it needs Ray.")
    ] = True,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Time reserving and settling a call over Redis and over the owner, beside a peer."""
    counts = parse_counts(callers)
    check_outputs(log)
    machine = describe_machine()
    with ExitStack() as stack:
        if owner:
            stack.enter_context(run_ray())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(run_redis())
        trials: dict[str, AbstractAsyncContextManager[Call]] = {peer_name(): over_peer(url)}
        trials[OURS_REDIS] = over_redis(url)
        if owner:
            trials[OURS_OWNER] = over_owner(directory)
        samples = uvloop.run(measure(trials, counts, calls, rounds, pause_ms / 1000))
    grid = build_grid(samples)
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench limits", [grid]))


async def measure(
    trials: Mapping[str, AbstractAsyncContextManager[Call]],
    counts: Sequence[int],
    calls: int,
    rounds: int,
    pause_s: float,
) -> Samples:
    """Every call is timed from before its reservation to after its settlement."""
    samples: dict[tuple[str, int], Sample] = {}
    async with AsyncExitStack() as stack:
        ready = {name: await stack.enter_async_context(one) for name, one in trials.items()}
        for call in ready.values():
            await _run(call, max(counts), calls // 10, pause_s, Sample())
        for _ in range(rounds):
            for number in counts:
                for name, call in ready.items():
                    sample = samples.setdefault((name, number), Sample())
                    await _run(call, number, calls, pause_s, sample)
    return samples


async def _run(call: Call, callers: int, calls: int, pause_s: float, sample: Sample) -> None:
    pauses = Random(SEED)

    async def caller(number: int) -> None:
        for _ in range(calls):
            begin = perf_counter()
            await call(number)
            sample.seconds.append(perf_counter() - begin)
            # Pauses of equal length would make the callers come together.
            await asyncio.sleep(pauses.expovariate(1 / pause_s) if pause_s else 0)

    begin = process_time()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    sample.cpu_s += process_time() - begin


def build_grid(samples: Samples) -> Grid:
    """A row for each kind of counters and number of callers, the peer first."""
    peer = next(iter(samples))[0]
    rows = []
    for (name, callers), sample in samples.items():
        p50, p99 = (1e3 * percentile(sample.seconds, share) for share in (0.5, 0.99))
        base = 1e3 * percentile(samples[peer, callers].seconds, 0.5)
        cpu_ms = 1e3 * sample.cpu_s / len(sample.seconds)
        cells = (f"{p50:.3f}", f"{p99:.3f}", f"{ratio(p50, base):.2f}", f"{cpu_ms:.2f}")
        rows.append((name, str(callers), *cells, _verdict(name == peer, p50, p99)))
    title = f"Added to a call by reserve and settle; goal: p50 {P50_GOAL_MS:g}, p99 {P99_GOAL_MS:g}"
    return Grid(f"{title} ms", HEADER, rows)


def _verdict(is_peer: bool, p50_ms: float, p99_ms: float) -> str:
    if is_peer:
        return "-"
    return "met" if p50_ms <= P50_GOAL_MS and p99_ms <= P99_GOAL_MS else "missed"
