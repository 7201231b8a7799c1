"""`serve-app learn`: fit the router to labelled calls, and measure the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console

from serve_app.core.outputs import OutputUnusable, check_file, make_directory
from serve_app.offline.evaluate.dataset import Dataset, read_dataset
from serve_app.offline.evaluate.evaluation_errors import EvaluationFailed
from serve_app.offline.learning.anchors import draw_anchors
from serve_app.offline.learning.learning_errors import LearningFailed
from serve_app.offline.learning.lesson_report import print_report, render_json
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.picture import draw_curves
from serve_app.offline.learning.records import CHECKPOINT_TOKENS, Pair, read_records
from serve_app.routing.weights import (
    HEADS,
    HEADS_MAX,
    SHIPPED_WEIGHTS,
    RoutingWeights,
    WeightsRefused,
    read_weights,
    save_weights,
)

if TYPE_CHECKING:
    from serve_app.offline.learning.comparison import Comparison
    from serve_app.offline.learning.lesson import Lesson, Report

SHIPPED = "shipped"
NONE = "none"
DEFAULT_OUT = Path("routing-weights.safetensors")
_WIDTH_MIN = 130


def learn(
    records: Annotated[
        list[Path] | None,
        typer.Argument(
            help="JSONL files of labelled calls, or directories of `evaluate` or of feedback logs."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            dir_okay=False,
            help="File for the new weights; the picture is written beside it, as .png.",
        ),
    ] = DEFAULT_OUT,
    prior: Annotated[
        str,
        typer.Option(help="Weights to start from: `shipped`, a file, or `none` (the heuristic)."),
    ] = SHIPPED,
    evaluate: Annotated[
        Path | None, typer.Option(help="Fit nothing; measure --weights on this file.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Weights for --evaluate: `shipped` or a file.")
    ] = SHIPPED,
    dataset: Annotated[
        Path | None,
        typer.Option(help="File with the questions, if the records are answers to them."),
    ] = None,
    fast: Annotated[str, typer.Option(help="The fast model's name in these answers.")] = "fast",
    strong: Annotated[
        str, typer.Option(help="The strong model's name in these answers.")
    ] = "strong",
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Names of three or more tiers (or of their models), weakest first, separated by "
            "commas. Each gets a head of its own, from the lines' `scores` by name or from the "
            "answers of these models."
        ),
    ] = None,
    prices: Annotated[
        str | None,
        typer.Option(
            help="What a call costs on each of --tiers, separated by commas: measure the choice "
            "among them."
        ),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            help="SMALL,LARGE: the models to learn for. Records of other models count only a "
            "little."
        ),
    ] = None,
    anchors: Annotated[
        int, typer.Option(min=0, max=4000, help="Number of generated easy and hard prompts to add.")
    ] = Options().anchors,
    strength: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=100,
            help="How far data may move the weights. Default: chosen by cross-validation.",
        ),
    ] = None,
    term_freedom: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            help="How far data may move the weights of the counted terms; a small value keeps "
            "them.",
        ),
    ] = Options().term_freedom,
    folds: Annotated[
        int, typer.Option(min=2, max=20, help="Number of folds of the cross-validation.")
    ] = 5,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the folds and the resampling.")
    ] = 0,
    checkpoint_tokens: Annotated[
        int, typer.Option(min=1, max=256, help="Tokens of a draft that a cascade judges.")
    ] = CHECKPOINT_TOKENS,
    quality_min: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of the strong model's accuracy that a cascade must keep."
        ),
    ] = Options().quality_min,
    reserve_ratio: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of the calls that is never learnt from, so that the next lesson can be "
            "compared with this one.",
        ),
    ] = Options().reserve_ratio,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file even if its weights are better.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Learn from labelled calls which calls need the strong model, and measure the result."""
    # Imported here, because scikit-learn takes a second to import.
    from serve_app.offline.learning import fit, lesson
    from serve_app.offline.learning.comparison import check_succession

    options = Options(
        folds=folds,
        seed=seed,
        pair=_parse_pair(pair),
        anchors=anchors,
        strength=strength,
        term_freedom=term_freedom,
        quality_min=quality_min,
        reserve_ratio=reserve_ratio,
        tiers=_parse_tiers(tiers),
        prices=_parse_prices(prices, tiers),
    )
    paths = _choose_paths(records, evaluate)
    try:
        if evaluate is None:
            _check_out(out, force=force)
        questions = _read_dataset(dataset)
        found = read_records(paths, questions, fast, strong, checkpoint_tokens, options.tiers)
        if found.skipped:
            _say(f"{found.skipped} records have no verdict on both models; left out.")
        if evaluate is not None:
            measured = _read(weights)
            _check_heads(measured, options)
            _print(lesson.evaluate_weights(found, measured, f"weights: {weights}", options), json)
            return
        begin = fit.begin_weights() if prior == NONE else _read(prior)
        assumed = draw_anchors(anchors, tiers=len(options.tiers) or len(HEADS))
        taught = lesson.learn(found, assumed, begin, options)
        _print(taught.report, json)
        if out.exists() and not force:
            old = read_weights(out)
            judged = lesson.compare(found, taught.weights, old, options)
            records_before = old.provenance.records
            check_succession(out, judged, taught.weights.provenance.records, records_before)
            _say(_describe(judged, out))
        _write(taught, out)
    except (EvaluationFailed, LearningFailed, OutputUnusable, WeightsRefused) as failure:
        _say(str(failure))
        raise typer.Exit(1) from None


def _check_out(out: Path, *, force: bool) -> None:
    """Check before the minutes of learning that the output files can be written."""
    make_directory(out.parent)
    check_file(out)
    check_file(out.with_suffix(".png"))
    if out.exists() and not force:
        read_weights(out)


def _describe(judged: Comparison, out: Path) -> str:
    """How the new weights compare with those that they replace."""
    if judged.new is None or judged.old is None:
        return f"The {judged.calls} calls that neither has learnt from cannot rank {out}."
    where = "that neither has learnt from" if judged.known else f"that {out} may have learnt from"
    return (
        f"On {judged.calls} calls {where}: APGR {judged.new:.3f} for the new weights, "
        f"{judged.old:.3f} for those in {out}."
    )


def _write(taught: Lesson, out: Path) -> None:
    save_weights(taught.weights, out)
    picture = out.with_suffix(".png")
    draw_curves(taught.report, out.stem, picture)
    _say(f"Wrote {out} ({out.stat().st_size / 1024:.0f} KiB) and {picture}.")
    _say(
        f"To use these weights, set `routing.weights: {out.resolve()}` in the Router's user_config."
    )
    if taught.report.cascade is not None:
        settings = orjson.dumps(taught.report.cascade.settings).decode()
        _say(f"For a cascade, also set `routing.cascade: {settings}`.")


def _print(report: Report, json: bool) -> None:
    if json:
        typer.echo(render_json(report), nl=False)
    else:
        print_report(Console(width=max(_WIDTH_MIN, Console().width)), report)


def _read(name: str) -> RoutingWeights:
    return read_weights(SHIPPED_WEIGHTS if name == SHIPPED else Path(name))


def _read_dataset(path: Path | None) -> Dataset | None:
    return None if path is None else read_dataset(path)


def _choose_paths(records: list[Path] | None, evaluate: Path | None) -> list[Path]:
    if bool(records) == (evaluate is not None):
        raise typer.BadParameter(
            "give either RECORDS to learn from or --evaluate FILE", param_hint="RECORDS"
        )
    return [evaluate] if evaluate is not None else list(records or [])


def _parse_pair(text: str | None) -> Pair | None:
    if text is None:
        return None
    small, comma, large = text.partition(",")
    if not (small.strip() and comma and large.strip()):
        raise typer.BadParameter(f"'{text}' is not SMALL,LARGE", param_hint="--pair")
    return small.strip(), large.strip()


def _parse_tiers(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text is not None else ()
    wrong = "" in names or len(set(names)) != len(names) or not 3 <= len(names) <= HEADS_MAX
    if names and wrong:
        expected = f"'{text}' is not 3 to {HEADS_MAX} different names"
        raise typer.BadParameter(expected, param_hint="--tiers")
    return names


def _parse_prices(text: str | None, tiers: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        prices = tuple(float(price) for price in text.split(","))
    except ValueError:
        prices = ()
    if not prices or len(prices) != len(_parse_tiers(tiers)) or not max(prices) > min(prices) >= 0:
        expected = "a price for each of --tiers is expected, and not the same for all"
        raise typer.BadParameter(expected, param_hint="--prices")
    return prices


def _check_heads(weights: RoutingWeights, options: Options) -> None:
    if options.tiers and weights.heads != options.tiers:
        expected = f"the weights have heads for {', '.join(weights.heads)}"
        raise typer.BadParameter(expected, param_hint="--tiers")


def _say(text: str) -> None:
    typer.echo(text, err=True)
