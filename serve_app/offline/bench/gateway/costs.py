"""From what a target spent for short and for long answers to the cost of a call and of a chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.summary import ratio

_HEADER = (
    "process",
    "us a chunk",
    "(min-max)",
    "us a call",
    "(min-max)",
    "chunks/s a core",
    "calls/s a core",
    "reads a chunk",
    "writes a chunk",
    "first event p50 ms",
    "p99 ms",
)


@dataclass(frozen=True, slots=True)
class PartSpent:
    """What one process of a target spent in a run."""

    cpu_s: float
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class Run:
    """One target with answers of one length, in one round."""

    target: str
    round: int
    tokens: int
    calls: int
    chunks: int
    seconds: float
    first_p50_ms: float | None
    first_p99_ms: float | None
    spent: Mapping[str, PartSpent]

    def cpu_a_call_us(self, part: str) -> float:
        """CPU microseconds of one call, its chunks included."""
        return 1e6 * self.spent[part].cpu_s / self.calls


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process of a target spends, from one round's short and long answers."""

    chunk_us: float
    call_us: float
    chunks_per_core_s: float
    calls_per_core_s: float
    reads_a_chunk: float
    writes_a_chunk: float
    first_p50_ms: float
    first_p99_ms: float


def solve(part: str, short: Run, long: Run) -> Cost:
    """The line through the costs of short and long answers: its slope is a chunk's cost, and what
    is left of a short answer is the call's."""
    short_chunks, long_chunks = short.chunks / short.calls, long.chunks / long.calls
    short_us, long_us = short.cpu_a_call_us(part), long.cpu_a_call_us(part)
    chunk_us = ratio(long_us - short_us, long_chunks - short_chunks)
    return Cost(
        chunk_us=chunk_us,
        call_us=short_us - chunk_us * short_chunks,
        chunks_per_core_s=1e6 * ratio(long_chunks, long_us),
        calls_per_core_s=ratio(1e6, short_us),
        reads_a_chunk=ratio(long.spent[part].reads, long.chunks),
        writes_a_chunk=ratio(long.spent[part].writes, long.chunks),
        first_p50_ms=math.nan if short.first_p50_ms is None else short.first_p50_ms,
        first_p99_ms=math.nan if short.first_p99_ms is None else short.first_p99_ms,
    )


def build_grids(runs: Sequence[Run]) -> list[Grid]:
    """A row for each process of each target, over the rounds that are complete."""
    if not runs:
        return []
    lengths = sorted({run.tokens for run in runs})
    rows = []
    for target in dict.fromkeys(run.target for run in runs):
        mine = [run for run in runs if run.target == target]
        for part in mine[0].spent:
            costs = _costs(part, mine, lengths)
            if costs:
                rows.append((f"{target}: {part}", *_cells(costs)))
    rounds = len({run.round for run in runs})
    title = (
        f"CPU of each process, by answers of {' and '.join(map(str, lengths))} tokens; medians of "
        f"{rounds} interleaved rounds"
    )
    return [Grid(title, _HEADER, rows)]


def _costs(part: str, runs: Sequence[Run], lengths: Sequence[int]) -> list[Cost]:
    costs = []
    for number in sorted({run.round for run in runs}):
        of_round = {run.tokens: run for run in runs if run.round == number}
        if len(of_round) == len(lengths) > 1:
            costs.append(solve(part, of_round[lengths[0]], of_round[lengths[-1]]))
    return costs


def _cells(costs: Sequence[Cost]) -> list[str]:
    def middle(key: Callable[[Cost], float]) -> float:
        return median(map(key, costs))

    def spread(key: Callable[[Cost], float], form: str) -> str:
        values = [key(cost) for cost in costs]
        return f"{min(values):{form}}-{max(values):{form}}"

    return [
        f"{middle(lambda cost: cost.chunk_us):.1f}",
        spread(lambda cost: cost.chunk_us, ".1f"),
        f"{middle(lambda cost: cost.call_us):.0f}",
        spread(lambda cost: cost.call_us, ".0f"),
        f"{middle(lambda cost: cost.chunks_per_core_s):,.0f}",
        f"{middle(lambda cost: cost.calls_per_core_s):,.0f}",
        f"{middle(lambda cost: cost.reads_a_chunk):.2f}",
        f"{middle(lambda cost: cost.writes_a_chunk):.2f}",
        f"{middle(lambda cost: cost.first_p50_ms):.1f}",
        f"{middle(lambda cost: cost.first_p99_ms):.1f}",
    ]
