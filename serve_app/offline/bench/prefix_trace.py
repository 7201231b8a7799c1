"""`serve-app bench prefix-trace`: rules for the choice of a replica, simulated on a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.results import build_console
from serve_app.offline.simulation.hardware import SHARING_GPUS, sharing_timing
from serve_app.offline.simulation.prefix_fleet import PrefixFleet, PrefixOutcome, sum_up
from serve_app.offline.simulation.prefix_policies import OURS, POLICIES, REPORT_S, REPORTS_S
from serve_app.offline.simulation.prefix_trace import (
    PrefixCall,
    TraceLine,
    length_s,
    mean_tokens_per_s,
    overlay,
    read_trace,
)

HEADER = (
    "rule",
    "hits",
    "first token mean s",
    "p50 s",
    "p99 s",
    "GPU-s of reading",
    "mean : ours",
)


def prefix_trace(
    trace: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A Mooncake trace.")],
    replicas: Annotated[
        str, typer.Option(help="Numbers of replicas, separated by commas.")
    ] = "8,32,64",
    routers: Annotated[str, typer.Option(help="Numbers of Routers, separated by commas.")] = "1,8",
    load: Annotated[
        float,
        typer.Option(
            min=0.01, help="The work of reading all prompts without a cache, by what replicas can."
        ),
    ] = 0.9,
    calls: Annotated[int, typer.Option(min=10, help="About how many calls a run has.")] = 12_000,
    jitter_s: Annotated[
        float, typer.Option(min=0, help="The step in which the trace's times are quantised.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Simulate rules for the choice of a replica on a trace of calls that share beginnings."""
    sizes, counts = parse_counts(replicas), parse_counts(routers)
    check_outputs(log)
    machine = describe_machine()
    lines = read_trace(trace)
    grids = [
        build_grid(size, count, made, seed)
        for size in sizes
        for made in [draw_calls(lines, size, load, calls, jitter_s, seed)]
        for count in counts
    ]
    print_report(build_console(), machine, grids)
    if log is not None:
        command = (
            f"serve-app bench prefix-trace --trace={trace.name} --replicas={replicas} "
            f"--routers={routers} --load={load:g} --calls={calls} --seed={seed}"
        )
        append_section(log, render_section(machine, command, grids))


def draw_calls(
    lines: Sequence[TraceLine], replicas: int, load: float, calls: int, jitter_s: float, seed: int
) -> list[PrefixCall]:
    """The calls that load so many replicas, from several copies of the trace."""
    copies = load * replicas / sharing_timing().token_s / mean_tokens_per_s(lines)
    calls_per_s = copies * len(lines) / length_s(lines)
    return overlay(lines, copies, min(calls / calls_per_s, length_s(lines)), jitter_s, seed)


def build_grid(replicas: int, routers: int, calls: Sequence[PrefixCall], seed: int) -> Grid:
    """A row for each rule."""
    outcomes = dict(_run_all(replicas, routers, calls, seed))
    ours_s = outcomes[OURS].first_token_mean_s
    rows = [_row(name, outcome, ours_s) for name, outcome in outcomes.items()]
    counted = outcomes[OURS].calls
    return Grid(
        f"{replicas} replicas, {routers} Routers, {counted:,} calls after the first fifth "
        f"of {calls[-1].arrived_s:,.0f} s",
        HEADER,
        rows,
    )


def _run_all(
    replicas: int, routers: int, calls: Sequence[PrefixCall], seed: int
) -> Iterator[tuple[str, PrefixOutcome]]:
    timing = sharing_timing()
    for name, build in POLICIES.items():
        report_s = REPORTS_S.get(name, REPORT_S)
        fleet = PrefixFleet(timing, replicas, routers, build, seed, report_s)
        yield name, sum_up(fleet.run(calls), timing)


def _row(name: str, outcome: PrefixOutcome, ours_s: float) -> Sequence[str]:
    return (
        name,
        f"{outcome.hit_ratio:.3f}",
        f"{outcome.first_token_mean_s:.3f}",
        f"{outcome.first_token_p50_s:.3f}",
        f"{outcome.first_token_p99_s:.2f}",
        f"{SHARING_GPUS * outcome.prefill_s:,.0f}",
        f"{outcome.first_token_mean_s / ours_s:.2f}",
    )
