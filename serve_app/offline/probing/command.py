"""`serve-app bench probe`: what the fast model's own signals and self-made labels are worth."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.runner import locked
from serve_app.offline.learning.options import Options
from serve_app.offline.probing.checkpoints import judge_checkpoints
from serve_app.offline.probing.collect import LANGUAGES, collect
from serve_app.offline.probing.labels import judge_labels, measure_bias
from serve_app.offline.probing.looks import (
    OPTIONS,
    Asked,
    learn_weights,
    measure_looks,
    score_lessons,
    score_looks,
    score_unseen,
)
from serve_app.offline.probing.questions import Part, draw_questions
from serve_app.offline.probing.rows import Cost, read_rows, write_rows
from serve_app.offline.probing.tables import (
    tabulate_agreements,
    tabulate_biases,
    tabulate_checkpoints,
    tabulate_costs,
    tabulate_looks,
)
from serve_app.routing.weights import read_weights

_TERMINATED = 128 + signal.SIGTERM


def probe(
    rows: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Read what --save wrote; ask no engine."),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="File for all that the engines said.")] = None,
    share: Annotated[
        float, typer.Option(min=0.05, max=1, help="Of the questions, for a shorter run.")
    ] = 1.0,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help="Lock this file while engines run, on a shared machine.")
    ] = None,
) -> None:
    """Measure what the demo's fast model knows of a question before it answers, and its labels."""
    # An exception, so that the engines end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    check_outputs(save, log, lock)
    machine = describe_machine()
    try:
        asked, costs = read(rows, share) if rows else _ask(save, share, lock)
    except BenchFailed as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(1) from None
    grids = list(build_grids(asked, costs))
    print_report(build_console(), machine, grids)
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench probe", grids))


def _ask(save: Path | None, share: float, lock: Path | None) -> tuple[Asked, list[Cost]]:
    questions = draw_questions(share)
    with locked(lock):
        rows, costs = collect(questions, lambda text: typer.echo(text, err=True))
    if save is not None:
        write_rows(save, rows, costs)
    return Asked(questions, rows), list(costs)


def read(path: Path, share: float) -> tuple[Asked, list[Cost]]:
    """What `--save` wrote, with its questions."""
    rows, costs = read_rows(path)
    said = {row.key: row for row in rows}
    questions = [question for question in draw_questions(share) if question.key in said]
    return Asked(questions, [said[question.key] for question in questions]), list(costs)


def build_grids(asked: Asked, costs: list[Cost], options: Options = OPTIONS) -> Iterator[Grid]:
    """All tables; everything is judged on the test part."""
    fitted, judged = asked.choose(Part.FIT), asked.choose(Part.TEST)
    shipped, learnt = read_weights(), learn_weights(asked.choose(Part.LEARN), options)
    on = f"{len(judged.rows)} questions, maps fitted to {len(fitted.rows)} others"
    scores = {
        f"Signals alone: {on}": score_looks(fitted, judged, None),
        "With the shipped weights' score": score_looks(fitted, judged, shipped),
        "With a score learnt from these kinds": score_looks(fitted, judged, learnt),
        "Kinds that no map has seen, with the shipped weights' score": score_unseen(asked, shipped),
        "Kinds that neither maps nor weights have seen, with a learnt score": score_unseen(
            asked, None, options
        ),
        "Weights alone, learnt from each kind of label": score_lessons(asked, options),
    }
    for title, found in scores.items():
        yield tabulate_looks(title, list(measure_looks(found, judged, options)))
    title = f"Cascades by checkpoint; the threshold chosen for {options.quality_min:.0%} of strong"
    checkpoints = list(judge_checkpoints(fitted, judged, options))
    yield tabulate_checkpoints(title, checkpoints)
    yield tabulate_costs(costs)
    title = "Labels against the questions' checks"
    yield tabulate_agreements(title, list(judge_labels(judged.rows)))
    biases = [measure_bias(judged.rows, language) for language in LANGUAGES]
    yield tabulate_biases([bias for bias in biases if bias is not None])
