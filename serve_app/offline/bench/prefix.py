"""`serve-app bench prefix`: what the choice of a replica by its cached prefix costs a call."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from serve_app.core.prefix import PrefixKeys, parse_prefix_keys, prefix_keys, render_prefix_keys
from serve_app.leases.prefix_cost import OwnChoices, ReplicaLoad, rank
from serve_app.leases.prefix_index import PrefixIndex
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import percentile
from serve_app.replica.prefix_table import PrefixTable

_MESSAGE_BYTES = 1000
_CAPACITY_TOKENS = 2_000_000


def prefix(
    kilobytes: Annotated[
        str, typer.Option(help="Sizes of prompts in KB, separated by commas.")
    ] = "4,20,100",
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the tier.")] = 64,
    rounds: Annotated[int, typer.Option(min=10, help="Calls of each size.")] = 2000,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Time the keys of a prompt, the search over all replicas and their ranking, without Ray."""
    sizes = parse_counts(kilobytes)
    check_outputs(log)
    machine = describe_machine()
    measured = {size: measure(size * 1000, replicas, rounds) for size in sizes}
    grid = build_grid(measured, replicas)
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench prefix", [grid]))


def measure(size_bytes: int, replicas: int, rounds: int) -> Mapping[str, float]:
    """Median microseconds of each step of a call; every replica has most of the prompt."""
    chance = random.Random(1)  # Not for secrets.
    parts = [chance.randbytes(_MESSAGE_BYTES) for _ in range(size_bytes // _MESSAGE_BYTES)]
    keys = prefix_keys(parts).for_model("model")
    index, table, own = PrefixIndex(), PrefixTable(_CAPACITY_TOKENS), OwnChoices()
    loads = {f"r{number}": ReplicaLoad(100 * number) for number in range(replicas)}
    _fill(table, prefix_keys(parts[: -(-3 * len(parts) // 4)]).for_model("model"))
    for name in loads:
        index.restart(name, 1, 0, table.snapshot())
    cached = index.match(keys, 0.0)
    header = render_prefix_keys(keys)
    tokens = size_bytes // 4
    steps: Mapping[str, Callable[[], object]] = {
        "Router: keys": lambda: prefix_keys(parts).for_model("model"),
        "Router: header": lambda: render_prefix_keys(keys),
        "Router: search": lambda: index.match(keys, 0.0),
        "Router: ranking": lambda: rank(loads, cached, own.tokens(0.0), tokens, chance),
        "Router: note of the choice": lambda: index.expect("r0", keys, tokens, 0.0),
        "replica: header": lambda: parse_prefix_keys(header),
        "replica: table": lambda: _fill(table, keys),
    }
    return {name: 1e6 * _median(step, rounds) for name, step in steps.items()}


def _fill(table: PrefixTable, keys: PrefixKeys) -> None:
    """One call at a replica."""
    reading = table.begin(keys)
    table.admit(reading, keys.size_bytes // 4, reading.predicted_tokens)
    table.end(reading, 100)


def _median(step: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.thread_time()
        step()
        seconds.append(time.thread_time() - begun)
    return percentile(seconds, 0.5)


def build_grid(measured: Mapping[int, Mapping[str, float]], replicas: int) -> Grid:
    """A row for each step, and the sum of a Router's."""
    sizes = list(measured)
    steps = list(measured[sizes[0]])
    rows = [_row(step, [measured[size][step] for size in sizes]) for step in steps]
    sums = [
        sum(us for step, us in measured[size].items() if step.startswith("Router"))
        for size in sizes
    ]
    rows.append(_row("Router: all", sums))
    return Grid(
        f"CPU microseconds a call, medians; {replicas} replicas, each with the prompt's beginning",
        ("step", *(f"{size} KB" for size in sizes)),
        rows,
    )


def _row(name: str, us: Sequence[float]) -> Sequence[str]:
    return name, *(f"{value:.1f}" for value in us)
