"""`serve-app calibrate`: the threshold for a budget, from your own calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.cli.check import read_or_exit
from serve_app.cli.records import InvalidRecord, Samples, read_samples
from serve_app.config.reader import ServeConfig
from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Usage
from serve_app.core.money import to_units
from serve_app.offline.learning.learnt import Filter
from serve_app.offline.simulation.residency import Replay, replay
from serve_app.routing.calibration import Calibration, Choice, Prices, Unattainable
from serve_app.routing.choice import build_scorer
from serve_app.routing.weights import SHIPPED_WEIGHTS, WeightsRefused, read_weights

WEIGHT_MAX = 10.0
REPLAY_NOTE = (
    "The lines were replayed in their order. Each tier remembered every prompt that it had read; "
    "real caches forget, and save less."
)
_STEPS = 10
_UNEQUAL = 0.01
_WIDTH_MIN = 110


class ScorerName(StrEnum):
    """The scorer of the prompts."""

    LEARNED = "learned"
    HEURISTIC = "heuristic"


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget; at most one of its fields is set."""

    strong_ratio: float | None
    cost_max: float | None
    quality_min: float | None

    @property
    def given(self) -> int:
        """The number of fields that are set."""
        return sum(value is not None for value in asdict(self).values())


def calibrate(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL files with `prompt` or `messages` on each line, access logs of the "
            "service, or the directory of its feedback log."
        ),
    ],
    strong_ratio: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Budget: the share of calls that go to the strong tier."),
    ] = None,
    cost_max: Annotated[
        float | None,
        typer.Option(min=0, help="Budget: the cost of 1,000 calls. Needs both prices."),
    ] = None,
    quality_min: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Floor: the share of the strong model's quality to keep. Needs lines with "
            "`small_score` and `large_score`.",
        ),
    ] = None,
    fast_price: Annotated[
        float | None, typer.Option(min=0, help="Price of 1,000 calls to the fast tier.")
    ] = None,
    strong_price: Annotated[
        float | None, typer.Option(min=0, help="Price of 1,000 calls to the strong tier.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A Serve config file: take the prices of 1,000 calls from its `prices`, at the "
            "mean tokens of the logged calls or at --prompt-tokens and --output-tokens."
        ),
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(min=0, help="Tokens of a prompt, with --config.")
    ] = None,
    output_tokens: Annotated[
        float | None, typer.Option(min=0, help="Tokens of an answer, with --config.")
    ] = None,
    scorer: Annotated[
        ScorerName, typer.Option(help="`routing.scorer` of the Router to calibrate.")
    ] = ScorerName.LEARNED,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="`routing.weights` of the Router. Default: the weights that come with serve-app."
        ),
    ] = None,
    residency_weights: Annotated[
        str | None,
        typer.Option(
            help="Replay the calls under these values of `routing.residency_weight`, separated by "
            "commas. Needs a budget, both --*-gpu-s, and bodies in the order in which they came."
        ),
    ] = None,
    fast_gpu_s: Annotated[
        float | None,
        typer.Option(min=0, help="GPU-seconds in which the fast tier reads 1,000 prompt tokens."),
    ] = None,
    strong_gpu_s: Annotated[
        float | None,
        typer.Option(min=0, help="GPU-seconds in which the strong tier reads 1,000 prompt tokens."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Report cost and quality of each share of strong calls, and the user_config for a budget."""
    budget = Budget(strong_ratio, cost_max, quality_min)
    if config is None:
        prices = _parse_prices(budget, fast_price, strong_price)
        _refuse_tokens(prompt_tokens, output_tokens)
    elif fast_price is not None or strong_price is not None:
        raise typer.BadParameter(
            "give either a config or prices", param_hint="--config, --fast-price, --strong-price"
        )
    try:
        routing = RoutingConfig(scorer=scorer.value, weights=weights and str(weights))
        samples = read_samples(files, build_scorer(routing), _read_learnt(routing))
        if config is not None:
            _check_budget(budget)
            prices = _read_prices(config, samples, prompt_tokens, output_tokens)
        calibration = Calibration(samples.scored, prices)
        chosen = _choose(calibration, budget)
        replays: Sequence[Replay] = ()
        if residency_weights is not None:
            weights_asked = _parse_weights(residency_weights)
            replays = _replay(samples, chosen, weights_asked, (fast_gpu_s, strong_gpu_s))
    except (InvalidRecord, Unattainable, WeightsRefused) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if json:
        typer.echo(_render_json(calibration, samples, budget, chosen, replays), nl=False)
        return
    console = Console(width=max(_WIDTH_MIN, Console().width))
    console.print(_build_table(calibration, chosen))
    if replays:
        console.print(_build_replays(replays))
        typer.echo(REPLAY_NOTE)
    for line in _notes(calibration, samples, budget, chosen):
        typer.echo(line)


def render_user_config(calibration: Calibration, budget: Budget, chosen: Choice) -> Sequence[str]:
    """The lines to paste below `user_config`."""
    target = chosen.strong_ratio if budget.strong_ratio is None else budget.strong_ratio
    low, high = calibration.bounds(target)
    return (
        "routing:",
        f"  strong_score_min: {chosen.threshold}",
        f"  strong_ratio_target: {round(target, 3)}",
        f"  strong_score_min_bounds: [{low}, {high}]",
    )


def _read_learnt(routing: RoutingConfig) -> Filter | None:
    """What the weights have learnt from; None for the heuristic, and where that is not known."""
    if routing.scorer == "heuristic":
        return None
    return read_weights(Path(routing.weights) if routing.weights else SHIPPED_WEIGHTS).learnt


def _check_budget(budget: Budget) -> None:
    if budget.given > 1:
        raise typer.BadParameter(
            "give one budget", param_hint="--strong-ratio, --cost-max, --quality-min"
        )


def _refuse_tokens(*tokens: float | None) -> None:
    if any(count is not None for count in tokens):
        raise typer.BadParameter(
            "tokens count with the prices of a config only", param_hint="--config"
        )


def _read_prices(
    path: Path, samples: Samples, prompt: float | None, output: float | None
) -> Prices:
    """The cost of 1,000 calls on the weakest and on the strongest tier of a config."""
    config = read_or_exit(path)
    prompt = samples.prompt_tokens if prompt is None else prompt
    output = samples.output_tokens if output is None else output
    if prompt is None or output is None:
        raise typer.BadParameter(
            "these files do not say how many tokens calls have",
            param_hint="--prompt-tokens, --output-tokens",
        )
    usage = Usage(round(1000 * prompt), round(1000 * output))
    fast, strong = (_price(config, tier, usage) for tier in _outer_tiers(config))
    return Prices(fast, strong)


def _outer_tiers(config: ServeConfig) -> tuple[TierConfig, TierConfig]:
    generating = [tier for tier in config.app.tiers if "generate" in tier.tasks]
    if len(generating) < 2:
        raise typer.BadParameter("two tiers must generate text", param_hint="--config")
    return generating[0], generating[-1]


def _price(config: ServeConfig, tier: TierConfig, usage: Usage) -> float:
    prices = config.runtime.prices
    if prices is None or not prices.has(tier.name, tier.model_id):
        raise typer.BadParameter(f"prices.tiers.{tier.name} is missing", param_hint="--config")
    return to_units(prices.find(tier.name, tier.model_id).cost(usage))


def _parse_prices(budget: Budget, fast: float | None, strong: float | None) -> Prices | None:
    _check_budget(budget)
    if fast is not None and strong is not None:
        return Prices(fast, strong)
    if budget.cost_max is not None or fast is not None or strong is not None:
        raise typer.BadParameter(
            "both prices are needed", param_hint="--fast-price, --strong-price"
        )
    return None


def _choose(calibration: Calibration, budget: Budget) -> Choice | None:
    if budget.strong_ratio is not None:
        return calibration.at_ratio(budget.strong_ratio)
    if budget.cost_max is not None:
        return calibration.at_cost(budget.cost_max)
    if budget.quality_min is not None:
        return calibration.at_quality(budget.quality_min)
    return None


def _rows(calibration: Calibration, chosen: Choice | None) -> Sequence[Choice]:
    """The choices closest to every tenth, and the chosen choice."""
    tenths = [step / _STEPS for step in range(_STEPS + 1)]
    nearest = [
        min(calibration.choices, key=lambda choice: abs(choice.strong_ratio - tenth))
        for tenth in tenths
    ]
    rows = {choice.strong_ratio: choice for choice in [*nearest, *([chosen] if chosen else [])]}
    return [rows[ratio] for ratio in sorted(rows)]


def _build_table(calibration: Calibration, chosen: Choice | None) -> Table:
    table = Table("", title=f"{calibration.calls} calls", title_justify="left", box=box.SIMPLE)
    rows = _rows(calibration, chosen)
    names = ["strong calls %", "strong_score_min"]
    names += ["cost of 1,000"] * (rows[0].cost is not None)
    names += ["quality %", "of strong's %", "gap closed %"] * calibration.labelled
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        style = "bold" if row == chosen else None
        table.add_row(">" if row == chosen else "", *_cells(calibration, row), style=style)
    return table


def _cells(calibration: Calibration, choice: Choice) -> Iterator[str]:
    yield f"{100 * choice.strong_ratio:.1f}"
    yield f"{choice.threshold:.4f}"
    if choice.cost is not None:
        yield f"{choice.cost:,.2f}"
    if calibration.labelled:
        yield f"{100 * (choice.quality or 0):.1f} ± {100 * (choice.quality_margin or 0):.1f}"
        for ratio in (choice.quality_ratio, choice.gap_ratio):
            yield "-" if ratio is None else f"{100 * ratio:.1f}"


def _notes(
    calibration: Calibration, samples: Samples, budget: Budget, chosen: Choice | None
) -> Iterator[str]:
    if samples.unscored:
        yield f"{samples.unscored} logged calls name their tier and have no score; left out."
    if samples.unlabelled:
        yield f"{samples.unlabelled} calls of the feedback log have no label yet; left out."
    if samples.learnt:
        yield f"{samples.learnt} labelled calls are left out: the weights have learnt from them."
    if chosen is None:
        yield "To print lines to paste, set a budget: --strong-ratio, --cost-max or --quality-min."
        return
    wanted = budget.strong_ratio
    if wanted is not None and wanted - chosen.strong_ratio > _UNEQUAL:
        yield (
            f"Many calls score the same: a fixed threshold comes no closer to {wanted:.1%} than "
            f"{chosen.strong_ratio:.1%}. With strong_ratio_target: {wanted:g} the Router does."
        )
    yield "Paste below user_config of the Router (without the last two lines the threshold stays):"
    yield ""
    yield from render_user_config(calibration, budget, chosen)


def _parse_weights(text: str) -> Sequence[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(0 <= weight <= WEIGHT_MAX for weight in weights):
        raise typer.BadParameter(
            f"numbers from 0 to {WEIGHT_MAX:g} are expected", param_hint="--residency-weights"
        )
    return weights


def _replay(
    samples: Samples,
    chosen: Choice | None,
    weights: Sequence[float],
    gpu_s: tuple[float | None, float | None],
) -> Sequence[Replay]:
    """The calls under each weight, and before them without one."""
    fast, strong = gpu_s
    if chosen is None or fast is None or strong is None:
        raise typer.BadParameter(
            "a budget, --fast-gpu-s and --strong-gpu-s are needed", param_hint="--residency-weights"
        )
    if not any(call.keys.keys for call in samples.scored):
        raise typer.BadParameter(
            "these files hold scores, and no prompts long enough to be cached",
            param_hint="--residency-weights",
        )
    return [
        replay(
            samples.scored,
            weight,
            strong_ratio=chosen.strong_ratio,
            threshold=chosen.threshold,
            gpu_s=(fast / 1000, strong / 1000),
        )
        for weight in dict.fromkeys([0.0, *weights])
    ]


def _build_replays(replays: Sequence[Replay]) -> Table:
    table = Table(title="routing.residency_weight", title_justify="left", box=box.SIMPLE)
    names = ["weight", "strong calls %", "GPU-s of reading", "saved %", "calls moved %"]
    names += ["quality %"] * (replays[0].quality is not None)
    for name in [*names, "mean score given up"]:
        table.add_column(name, justify="right", no_wrap=True)
    for each in replays:
        table.add_row(*_replay_cells(each, replays[0]))
    return table


def _replay_cells(each: Replay, plain: Replay) -> Iterator[str]:
    saved_ratio = 1 - each.read_gpu_s / plain.read_gpu_s if plain.read_gpu_s else 0.0
    yield f"{each.weight:g}"
    yield f"{100 * each.strong_ratio:.1f}"
    yield f"{each.read_gpu_s:,.1f}"
    yield f"{100 * saved_ratio:.1f}"
    yield f"{100 * each.moved_ratio:.1f}"
    if each.quality is not None:
        yield f"{100 * each.quality:.2f}"
    yield f"{plain.score - each.score:.4f}"


def _render_json(
    calibration: Calibration,
    samples: Samples,
    budget: Budget,
    chosen: Choice | None,
    replays: Sequence[Replay],
) -> bytes:
    document = {
        "calls": calibration.calls,
        "unscored": samples.unscored,
        "learnt": samples.learnt,
        "choices": [asdict(choice) for choice in _rows(calibration, chosen)],
        "chosen": chosen and asdict(chosen),
        "residency": [asdict(each) for each in replays],
        "user_config": chosen and "\n".join([*render_user_config(calibration, budget, chosen), ""]),
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
