"""`serve-app bench prefix-tiers`: what `routing.residency_weight` saves on a trace.

A trace has no scores. So each conversation draws the mean of its scores, and its calls deviate from
that mean: the more they deviate, the more often a conversation changes its tier without a weight.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.simulation.hardware import SHARING_GPUS, fast_tier, sharing_timing
from serve_app.offline.simulation.prefix_trace import (
    PrefixCall,
    find_shared,
    length_s,
    overlay,
    read_trace,
)
from serve_app.offline.simulation.residency import Replay, replay
from serve_app.routing.calibration import ScoredCall

SCORE_MEAN, SCORE_DEVIATION = 0.5, 0.2
"""Of the means of conversations."""
TURN_DEVIATIONS = (0.05, 0.15)
"""Of the calls of a conversation from its mean."""
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0)
HEADER = (
    "weight",
    "strong calls %",
    "GPU-s of reading",
    "saved %",
    "calls moved %",
    "mean score given up",
)


def prefix_tiers(
    trace: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A Mooncake trace.")],
    strong_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="The share of calls on the strong tier.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Simulate what a weight of cached conversations saves, and which calls it moves."""
    check_outputs(log)
    machine = describe_machine()
    lines = read_trace(trace)
    calls = overlay(lines, 1, length_s(lines), 3.0, seed)
    shared = find_shared(lines)
    grids = [
        build_grid(draw_scores(calls, shared, deviation, seed), strong_ratio, deviation)
        for deviation in TURN_DEVIATIONS
    ]
    print_report(build_console(), machine, grids)
    if log is not None:
        command = (
            f"serve-app bench prefix-tiers --trace={trace.name} --strong-ratio={strong_ratio:g} "
            f"--seed={seed}"
        )
        append_section(log, render_section(machine, command, grids))


def draw_scores(
    calls: Sequence[PrefixCall], shared: frozenset[int], deviation: float, seed: int
) -> Sequence[ScoredCall]:
    """The calls with scores; a conversation is known by its first block of its own."""
    chance = random.Random(seed)  # Not for secrets: the same seed, the same scores.
    scored = []
    for call in calls:
        own = next((block for block in call.blocks if block not in shared), chance.random())
        mean = random.Random(f"{seed} {own}").gauss(SCORE_MEAN, SCORE_DEVIATION)
        score = min(max(chance.gauss(mean, deviation), 0.0), 1.0)
        scored.append(ScoredCall(score, keys=call.keys, prompt_tokens=call.prompt_tokens))
    return scored


def build_grid(calls: Sequence[ScoredCall], strong_ratio: float, deviation: float) -> Grid:
    """A row for each weight."""
    gpu_s = fast_tier().timing.token_s, SHARING_GPUS * sharing_timing().token_s
    replays = [
        replay(calls, weight, strong_ratio=strong_ratio, threshold=SCORE_MEAN, gpu_s=gpu_s)
        for weight in WEIGHTS
    ]
    title = f"{len(calls):,} calls, whose scores deviate by {deviation:g} from their conversation's"
    return Grid(title, HEADER, [tuple(_cells(each, replays[0])) for each in replays])


def _cells(each: Replay, plain: Replay) -> Iterator[str]:
    yield f"{each.weight:g}"
    yield f"{100 * each.strong_ratio:.1f}"
    yield f"{each.read_gpu_s:,.0f}"
    yield f"{100 * (1 - each.read_gpu_s / plain.read_gpu_s):.1f}"
    yield f"{100 * each.moved_ratio:.1f}"
    yield f"{plain.score - each.score:.4f}"
