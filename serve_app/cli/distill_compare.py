"""`serve-app distill compare`: what a training changed, by the answers of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.cli.evaluate import DEMO_QUESTIONS
from serve_app.config.runtime import RoutingConfig
from serve_app.offline.distill.comparison import Accuracy, Comparison, StrongShare, compare_models
from serve_app.offline.distill.distill_errors import DistillFailed
from serve_app.offline.evaluate.answers import read_answers
from serve_app.offline.evaluate.dataset import read_dataset
from serve_app.offline.evaluate.evaluation_errors import EvaluationFailed
from serve_app.routing.choice import build_scorer
from serve_app.routing.weights import WeightsRefused

_DEMO = "demo"
_WIDTH_MIN = 110


def compare(
    evaluations: Annotated[
        list[Path], typer.Argument(help="Directories that `serve-app evaluate` has written.")
    ],
    dataset: Annotated[str, typer.Option(help="The questions that were asked: a file, or `demo`.")],
    before: Annotated[str, typer.Option(help="The small model's name in the answers.")] = "fast",
    after: Annotated[
        str, typer.Option(help="The distilled model's name in the answers.")
    ] = "distilled",
    strong: Annotated[str, typer.Option(help="The strong model's name in the answers.")] = "strong",
    strong_score_min: Annotated[
        float, typer.Option(min=0, max=1, help="The Router's threshold now.")
    ] = RoutingConfig().strong_score_min,
    weights: Annotated[
        Path | None, typer.Option(help="`routing.weights` of the Router. Default: as shipped.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two models by their answers, and by the strong calls that each needs."""
    routing = RoutingConfig(weights=None if weights is None else str(weights))
    try:
        questions = read_dataset(DEMO_QUESTIONS if dataset == _DEMO else Path(dataset))
        answers = [answer for path in evaluations for answer in read_answers(path)]
        found = compare_models(
            questions, answers, (before, after, strong), build_scorer(routing), strong_score_min
        )
    except (DistillFailed, EvaluationFailed, WeightsRefused) as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(1) from None
    if json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        typer.echo(orjson.dumps(asdict(found), option=options), nl=False)
        return
    console = Console(width=max(_WIDTH_MIN, Console().width))
    for table in build_tables(found, (before, after, strong)):
        console.print(table)


def build_tables(found: Comparison, names: Sequence[str]) -> Sequence[Table]:
    """How often each is right; the strong calls at equal quality."""
    before, after, strong = names
    title = f"Right answers to {found.questions} questions"
    right = _begin_table(title, "", before, after, strong, "of", f"{after} - {before}, points", "p")
    for accuracy in found.accuracies:
        right.add_row(*_accuracy_cells(accuracy))
    title = "Strong calls that reach a quality, % of all calls"
    shares = _begin_table(title, "quality", "right %", f"with {before}", f"with {after}")
    for share in found.shares:
        shares.add_row(*_share_cells(share))
    return right, shares


def _accuracy_cells(accuracy: Accuracy) -> Sequence[str]:
    difference = accuracy.difference
    low, high = 100 * difference.interval.low, 100 * difference.interval.high
    counts = (accuracy.before, accuracy.after, accuracy.strong, accuracy.total)
    p = "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"
    change = f"{100 * difference.mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return accuracy.group, *map(str, counts), change, p


def _share_cells(share: StrongShare) -> Sequence[str]:
    ratios = [share.before, share.after]
    cells = ["-" if ratio is None else f"{100 * ratio:.1f}" for ratio in ratios]
    return share.aim, f"{100 * share.quality:.1f}", *cells


def _begin_table(title: str, *names: str) -> Table:
    first, *others = names
    table = Table(first, title=title, title_justify="left", box=box.SIMPLE)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
