"""What `serve-app bench scaling` does: all policies on all traces, as tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from serve_app.bench.report import Grid
from serve_app.bench.scaling_picture import draw_runs
from serve_app.bench.scaling_runs import (
    JUDGING_SEEDS,
    SPILLS,
    TUNED,
    TUNING_SEEDS,
    Case,
    Run,
    all_tiers,
    build_case,
    llm_settings,
    quick_ray_settings,
    ray_settings,
    run_joint,
    tune,
)
from serve_app.simulation.outcome import Outcome
from serve_app.simulation.trace import all_shapes

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


def compare_all(*, quick: bool, pictures: Path | None) -> list[Grid]:
    """A table for each tier, and one for both together; pictures of two traces, where wanted."""
    seeds = JUDGING_SEEDS[:1] if quick else JUDGING_SEEDS
    grids = []
    for tier in all_tiers():
        runs = {
            shape.name: [
                (case, _run_all(case)) for case in (build_case(tier, shape, seed) for seed in seeds)
            ]
            for shape in all_shapes()
        }
        grids.append(_tier_grid(f"{tier.name}: a replica starts in {tier.start_s:.0f} s", runs))
        for name in _DRAWN if pictures else ():
            case, drawn = runs[name][0]
            assert pictures is not None
            path = pictures / f"autoscaling-{tier.name}-{name.replace(' ', '-')}.png"
            draw_runs(f"{tier.name}, {name}", case.trace, drawn, path)
    return [*grids, _joint_grid(seeds)]


def _run_all(case: Case) -> Mapping[str, Run]:
    runs = {name: case.run(setting) for name, setting in TUNED[case.tier.name].items()}
    return {**runs, "perfect reaction": case.reaction, "oracle": case.oracle}


def _tier_grid(title: str, runs: Mapping[str, Sequence[tuple[Case, Mapping[str, Run]]]]) -> Grid:
    rows = []
    for trace, seeded in runs.items():
        oracle = [case.oracle.outcome.gpu_hours for case, _ in seeded]
        for policy in seeded[0][1]:
            outcomes = [of[policy].outcome for _, of in seeded]
            rows.append((trace, policy, *_cells(outcomes, oracle)))
    return Grid(f"{title}; mean and standard deviation over {len(oracle)} seeds", HEADER, rows)


def _joint_grid(seeds: Sequence[int]) -> Grid:
    rows = []
    for name in SPILLS:
        pairs = [run_joint(seed, name) for seed in seeds]
        strong = [pair[1] for pair in pairs]
        gpu_hours = [sum(outcome.gpu_hours for outcome in pair) for pair in pairs]
        rows.append(
            (
                name,
                _spread(100 * outcome.missed_ratio for outcome in strong),
                _spread(100 * pair[0].missed_ratio for pair in pairs),
                _spread(100 * outcome.spilled / outcome.calls for outcome in strong),
                _spread(gpu_hours),
            )
        )
    header = ("policy", "strong missed %", "fast missed %", "spilled %", "GPU-h, both")
    return Grid("Both tiers, the 10x step on strong, a steady load on fast", header, rows)


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
            ("Ray, all tuned", quick_ray_settings(tier)),
            ("llm", llm_settings(tier)),
        ):
            for weight, setting in tune(cases, list(settings))[:_SHOWN]:
                rows.append((name, f"{weight:.4f}", str(setting)))
        yield Grid(f"{tier.name}: what weighs least", ("policy", "weight", "setting"), rows)
