"""`serve-app distill`: a small model learns the large model's answers; the training set."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from serve_app.cli.endpoint import build_headers, parse_address
from serve_app.config.feedback import BUILT_INS, check_patterns
from serve_app.core.outputs import OutputUnusable, make_directory
from serve_app.offline.distill.asking import Strong, ask_rows
from serve_app.offline.distill.card import Card, render_json, render_steps
from serve_app.offline.distill.distill_errors import DistillFailed
from serve_app.offline.distill.log_rows import Row, read_log
from serve_app.offline.distill.preparing import read_held_out, write_training_set
from serve_app.offline.distill.selection import Fate, Rules, may_be_asked, select
from serve_app.offline.evaluate.evaluation_errors import EvaluationFailed

_WIDTH_MIN = 110


def data(
    log: Annotated[list[Path], typer.Argument(help="Files of the feedback log, or its directory.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory for the training set.")],
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="A labelled set of `serve-app evaluate` that must not be taught."),
    ] = None,
    assumed_consent: Annotated[
        bool,
        typer.Option(
            "--assumed-consent",
            help="Also teach calls whose client did not refuse, not only those that agreed.",
        ),
    ] = False,
    redact: Annotated[
        str,
        typer.Option(help="Patterns to redact once more, separated by commas, as in the config."),
    ] = ",".join(BUILT_INS),
    chars_max: Annotated[
        int, typer.Option(min=1, help="Longest conversation, in characters.")
    ] = 8000,
    validation_ratio: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the lessons that are not learnt.")
    ] = 0.05,
    ask: Annotated[
        str | None,
        typer.Option(
            help="Base URL of an endpoint that answers the questions whose answer or verdict is "
            "missing, twice each; equal results count as right."
        ),
    ] = None,
    strong: Annotated[str, typer.Option(help="The model to ask there.")] = "strong",
    api_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the API key.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an asked answer.")] = 512,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Turn a feedback log into chat JSONL to train on, with a card that counts what was dropped."""
    address = None if ask is None else parse_address(ask, "--ask")
    headers = build_headers(api_key_env)
    patterns = _parse_patterns(redact)
    try:
        make_directory(out)
        held = read_held_out(held_out or [])
        rules = Rules(patterns, assumed_consent, chars_max, held.keys)
        found = read_log(log)
        rows, failed = found.rows, Counter[Fate]()
        if address is not None:
            endpoint = Strong(address, strong, headers, concurrency, max_tokens)
            rows, failed = _ask(rows, rules, endpoint)
        selection = select(rows, rules, failed)
        card = write_training_set(
            found,
            selection,
            rules,
            out,
            validation_ratio=validation_ratio,
            held_out=held.files,
            asked=None if address is None else f"`{strong}` at {address}",
        )
    except (DistillFailed, EvaluationFailed, OutputUnusable) as failure:
        _say(str(failure))
        raise typer.Exit(1) from None
    _print_card(card, json)
    _say(f"Wrote {out}. Next: serve-app distill train {out} --base MODEL --out ADAPTER")


def _ask(
    rows: Sequence[Row], rules: Rules, endpoint: Strong
) -> tuple[Sequence[Row], Counter[Fate]]:
    asked = [row for row in rows if may_be_asked(row, rules)]
    others = [row for row in rows if not may_be_asked(row, rules)]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("asking", total=len(asked))
        answered, failed = asyncio.run(ask_rows(asked, endpoint, lambda: progress.advance(task)))
    return [*others, *answered], failed


def _parse_patterns(text: str) -> tuple[str, ...]:
    try:
        return check_patterns(tuple(part for part in text.split(",") if part))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--redact") from None


def _print_card(card: Card, json: bool) -> None:
    if json:
        typer.echo(render_json(card), nl=False)
        return
    table = Table("step", title=f"{card.calls} calls of the log", title_justify="left")
    table.box = box.SIMPLE
    table.add_column("dropped", justify="right")
    table.add_column("left", justify="right")
    for reason, dropped, left in render_steps(card):
        table.add_row(reason, str(dropped), str(left))
    table.add_row("lessons to learn from", "", str(card.train))
    table.add_row("lessons to watch the training by", "", str(card.validation))
    Console(width=max(_WIDTH_MIN, Console().width)).print(table)


def _say(text: str) -> None:
    typer.echo(text, err=True)
