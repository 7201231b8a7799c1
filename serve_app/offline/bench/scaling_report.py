"""What `serve-app bench scaling` does: all policies on all traces, as tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.scaling_picture import draw_runs
from serve_app.offline.bench.scaling_runs import (
    JUDGING_SEEDS,
    SPILLS,
    TUNED,
    TUNING_SEEDS,
    JointRun,
    Run,
    all_tiers,
    build_case,
    llm_settings,
    quick_ray_settings,
    ray_settings,
    run_joint,
    tune,
)
from serve_app.offline.simulation.cluster import SimTier
from serve_app.offline.simulation.outcome import Outcome
from serve_app.offline.simulation.trace import Trace, all_shapes

_SHOWN = 3
_DRAWN = ("10x step", "diurnal")
HEADER = (
    "trace",
    "policy",
    "missed %",
    "refused %",
    "GPU-h",
    "x oracle",
    "turns/h",
    "p50 s",
    "p99 s",
)


@dataclass(frozen=True, slots=True)
class Compared:
    """All policies on one trace of one tier."""

    tier: str
    trace: Trace
    runs: Mapping[str, Run]


def compare_all(*, quick: bool, pictures: Path | None) -> list[Grid]:
    """A table for each tier, and one for both together; pictures of two traces, where wanted.

    One process for each core: a run is bound to one.
    """
    seeds = JUDGING_SEEDS[:1] if quick else JUDGING_SEEDS
    wanted = [
        (tier.name, shape.name, seed)
        for seed in seeds
        for shape in all_shapes()
        for tier in all_tiers()
    ]
    with ProcessPoolExecutor() as pool:
        compared = list(pool.map(_compare, *zip(*wanted, strict=True)))
        both = {name: list(pool.map(run_joint, seeds, [name] * len(seeds))) for name in SPILLS}
    if pictures is not None:
        _draw(compared, pictures)
    grids = [
        _tier_grid(tier, [one for one in compared if one.tier == tier.name], len(seeds))
        for tier in all_tiers()
    ]
    return [*grids, _joint_grid(both)]


def _compare(tier_name: str, shape_name: str, seed: int) -> Compared:
    tier = next(tier for tier in all_tiers() if tier.name == tier_name)
    shape = next(shape for shape in all_shapes() if shape.name == shape_name)
    case = build_case(tier, shape, seed)
    runs = {name: case.run(setting) for name, setting in TUNED[tier.name].items()}
    runs["llm, deadline"] = case.run(TUNED[tier.name]["llm"], admits=True)
    runs |= {"perfect reaction": case.reaction, "oracle": case.oracle}
    return Compared(tier.name, case.trace, runs)


def _draw(compared: Sequence[Compared], directory: Path) -> None:
    """Of every tier and of some traces the first seed."""
    drawn = set()
    for one in compared:
        name = f"autoscaling-{one.tier}-{one.trace.name.replace(' ', '-')}.png"
        if one.trace.name in _DRAWN and name not in drawn:
            drawn.add(name)
            draw_runs(f"{one.tier}, {one.trace.name}", one.trace, one.runs, directory / name)


def _tier_grid(tier: SimTier, compared: Sequence[Compared], seeds: int) -> Grid:
    rows: list[Sequence[str]] = []
    for shape in all_shapes():
        runs = [one.runs for one in compared if one.trace.name == shape.name]
        oracle = [of["oracle"].outcome.gpu_hours for of in runs]
        rows += [
            (shape.name, policy, *_cells([of[policy].outcome for of in runs], oracle))
            for policy in runs[0]
        ]
    title = f"{tier.name}: a replica has {tier.gpus:g} GPUs and starts in {tier.start_s:.0f} s"
    return Grid(f"{title}; mean and standard deviation over {seeds} seeds", HEADER, rows)


def _joint_grid(both: Mapping[str, Sequence[JointRun]]) -> Grid:
    oracle = [run.gpu_hours for run in both["oracle"]]
    rows = [
        (
            name,
            _spread(100 * run.strong.missed_ratio for run in runs),
            _spread(100 * run.fast.missed_ratio for run in runs),
            _spread(100 * run.strong.spilled / run.strong.calls for run in runs),
            _spread(run.gpu_hours for run in runs),
            _spread(run.gpu_hours / hours for run, hours in zip(runs, oracle, strict=True)),
        )
        for name, runs in both.items()
    ]
    header = ("policy", "strong missed %", "fast missed %", "spilled %", "GPU-h", "x oracle")
    return Grid("Both tiers: the 10x step on strong, the base load on fast", header, rows)


def _cells(outcomes: Sequence[Outcome], oracle: Sequence[float]) -> Sequence[str]:
    return (
        _spread(100 * outcome.missed_ratio for outcome in outcomes),
        _spread(100 * outcome.refused / outcome.calls for outcome in outcomes),
        _spread(outcome.gpu_hours for outcome in outcomes),
        _spread(outcome.gpu_hours / hours for outcome, hours in zip(outcomes, oracle, strict=True)),
        _spread(outcome.turns_per_hour for outcome in outcomes),
        f"{fmean(outcome.first_token_p50_s for outcome in outcomes):.2f}",
        f"{fmean(outcome.first_token_p99_s for outcome in outcomes):.1f}",
    )


def _spread(values: Iterable[float]) -> str:
    told = list(values)
    return f"{fmean(told):.2f} ± {stdev(told):.2f}" if len(told) > 1 else f"{told[0]:.2f}"


def tune_all() -> Iterator[Grid]:
    """The best settings of each kind, on seeds that no result is judged on."""
    for tier in all_tiers():
        cases = [build_case(tier, shape, seed) for shape in all_shapes() for seed in TUNING_SEEDS]
        rows = []
        for name, settings in (
            ("Ray", ray_settings(tier)),
            ("Ray, fresh news", quick_ray_settings(tier)),
            ("llm", llm_settings(tier)),
        ):
            for weight, setting in tune(cases, list(settings))[:_SHOWN]:
                rows.append((name, f"{weight:.4f}", str(setting)))
        yield Grid(f"{tier.name}: what weighs least", ("policy", "weight", "setting"), rows)
