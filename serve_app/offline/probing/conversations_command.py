"""`serve-app bench conversations`: accuracy and switches with and without stickiness."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer

from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.runner import locked
from serve_app.offline.probing.collect import ANSWER, Collected, ask_all
from serve_app.offline.probing.command import read
from serve_app.offline.probing.conversations import (
    KINDS,
    TURNS,
    Conversation,
    Kept,
    draw_conversations,
    measure_rules,
)
from serve_app.offline.probing.engines import running
from serve_app.offline.probing.looks import learn_weights
from serve_app.offline.probing.questions import Part
from serve_app.routing.weights import RoutingWeights, read_weights

MODELS = ("fast", "strong")
SHARES = (0.3, 0.5)

Rights = Mapping[str, tuple[bool, bool]]


def conversations(
    count: Annotated[int, typer.Option(min=2, max=400, help="Conversations of each kind.")] = 40,
    probe: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="What `bench probe --save` wrote, to measure weights learnt from it as well.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Read what --save wrote; ask no engine."),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="File for what the checks said.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help="Lock this file while engines run, on a shared machine.")
    ] = None,
) -> None:
    """Measure accuracy and switches of conversations with and without stickiness."""
    check_outputs(save, log, lock)
    machine, drawn = describe_machine(), draw_conversations(count)
    try:
        rights = _read(rows) if rows else _ask(drawn, lock)
    except BenchFailed as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(1) from None
    if save is not None:
        save.write_bytes(orjson.dumps(rights))
    weights = {"shipped": read_weights()}
    if probe is not None:
        weights["learnt"] = learn_weights(read(probe, 1.0)[0].choose(Part.LEARN))
    grids = list(build_grids(drawn, rights, weights))
    print_report(build_console(), machine, grids)
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench conversations", grids))


def build_grids(
    drawn: Sequence[Conversation], rights: Rights, weights: Mapping[str, RoutingWeights]
) -> Iterator[Grid]:
    """A table for each of the weights and each share of strong calls."""
    for name, own in weights.items():
        for share in SHARES:
            title = f"{len(drawn)} conversations of {TURNS}, {name} weights, {share:.0%} strong"
            kept = measure_rules(drawn, rights, own, share)
            yield tabulate(title, list(kept))


def tabulate(title: str, kept: Sequence[Kept]) -> Grid:
    """A row for each rule."""
    header = ("rule", "right %", "more than by itself, points", "switches", *KINDS)
    return Grid(title, header, [tuple(_cells(each)) for each in kept])


def _cells(kept: Kept) -> Iterator[str]:
    yield kept.rule
    yield f"{100 * kept.right:.1f}"
    yield f"{100 * kept.gained.low:+.1f} to {100 * kept.gained.high:+.1f}"
    yield f"{kept.switches:.2f}"
    yield from (f"{100 * kept.by_kind[kind]:.1f}" for kind in KINDS)


def _ask(drawn: Sequence[Conversation], lock: Path | None) -> Rights:
    questions = [question for conversation in drawn for question in conversation.questions]
    found = Collected({question.key: {} for question in questions})
    with locked(lock):
        for model in MODELS:
            with running(model) as engine:
                asyncio.run(ask_all(engine, questions, ANSWER, found, model, _say))
    return {
        question.key: (
            question.check.passes(found.said[question.key]["fast answer"].text),
            question.check.passes(found.said[question.key]["strong answer"].text),
        )
        for question in questions
    }


def _read(path: Path) -> Rights:
    return {key: (fast, strong) for key, (fast, strong) in orjson.loads(path.read_bytes()).items()}


def _say(text: str) -> None:
    typer.echo(text, err=True)
