"""`serve-app evaluate`: each model's accuracy, speed and share of strong calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serve_app.cli.endpoint import build_headers, parse_address
from serve_app.core.outputs import OutputUnusable, check_file, make_directory
from serve_app.offline.demo.testset import TESTSET
from serve_app.offline.evaluate.answers import ANSWERS_FILE, GradedAnswer, Settings, open_answers
from serve_app.offline.evaluate.client import Client
from serve_app.offline.evaluate.dataset import read_dataset
from serve_app.offline.evaluate.evaluation_errors import EvaluationFailed, InvalidDataset
from serve_app.offline.evaluate.evaluation_report import print_report, render_json
from serve_app.offline.evaluate.picture import draw_picture
from serve_app.offline.evaluate.run import Call, make_calls, plan_calls
from serve_app.offline.evaluate.summary import Summary, summarize

SUMMARY_FILE = "summary.json"
PICTURE_FILE = "quality-over-cost.png"
DEMO_QUESTIONS = TESTSET
_DEMO = "demo"
_WIDTH_MIN = 110
# A call may wait long for its first token behind other calls, but not forever.
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_INTERRUPTED = 130


def evaluate(
    dataset: Annotated[str, typer.Argument(help="A JSONL file of labelled questions, or `demo`.")],
    base_url: Annotated[
        str, typer.Option(help="Base URL of the endpoint, as for OpenAI's clients.")
    ] = "http://127.0.0.1:8000/v1",
    models: Annotated[
        str, typer.Option(help="Models to ask, separated by commas.")
    ] = "fast,strong,auto",
    strong: Annotated[
        str, typer.Option(help="The model that the others are compared with.")
    ] = "strong",
    prices: Annotated[
        str | None,
        typer.Option(
            help="Price of an answer by tier, as `fast=1,middle=3,strong=10`: compare each model "
            "with the best mixture of tiers at its mean price."
        ),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the API key.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Directory for the answers. An interrupted evaluation in this directory is "
            "continued.",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent calls.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask only this many questions, drawn at random.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of the draw, the order and the sampling.")
    ] = 0,
    logprobs: Annotated[
        bool,
        typer.Option("--logprobs", help="Keep the first tokens' log-probabilities, for `learn`."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Ask a running endpoint labelled questions, and report each model's accuracy and speed."""
    names, priced = _parse_models(models), _parse_prices(prices)
    address, headers = parse_address(base_url), build_headers(api_key_env)
    try:
        questions = read_dataset(_locate(dataset)).choose(limit, seed)
        settings = Settings(questions.sha256, address, max_tokens, temperature, seed)
        directory = out or _name_directory(questions.name)
        _check_outputs(directory)
        with open_answers(directory, settings) as log:
            calls = plan_calls(questions, names, log.answers, seed)
            _say(f"{len(calls)} calls to make, {len(questions.items) * len(names)} in all.")
            _say(f"After an interruption, the same command with --out {directory} goes on.")
            with _progress(len(calls)) as show:
                asyncio.run(
                    _make_calls(
                        settings, headers, calls, concurrency, [log.add, show], logprobs=logprobs
                    )
                )
    except (EvaluationFailed, OutputUnusable) as failure:
        _say(str(failure))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("Interrupted.")
        raise typer.Exit(_INTERRUPTED) from None
    summary = summarize(questions, names, strong, settings, log.answers, priced)
    _report(summary, directory, json)


async def _make_calls(
    settings: Settings,
    headers: Mapping[str, str],
    calls: Sequence[Call],
    concurrency: int,
    takers: Sequence[Callable[[GradedAnswer], None]],
    *,
    logprobs: bool,
) -> None:
    def take(answer: GradedAnswer) -> None:
        for taker in takers:
            taker(answer)

    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(
        base_url=settings.base_url, headers=headers, timeout=_TIMEOUT, limits=limits
    ) as http:
        await make_calls(Client(http, settings, logprobs=logprobs), calls, concurrency, take)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[GradedAnswer], None]]:
    """A progress bar on stderr; the yielded function advances it by one answer."""
    failed = 0
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, failed=failed)

        def show(answer: GradedAnswer) -> None:
            nonlocal failed
            failed += answer.error is not None
            progress.update(task, advance=1, failed=failed)

        yield show


def _check_outputs(directory: Path) -> None:
    """Check before the long evaluation that every output file can be written."""
    make_directory(directory)
    for name in (ANSWERS_FILE, SUMMARY_FILE, PICTURE_FILE):
        check_file(directory / name)


def _report(summary: Summary, directory: Path, json: bool) -> None:
    document = render_json(summary)
    (directory / SUMMARY_FILE).write_bytes(document)
    draw_picture(summary, directory / PICTURE_FILE)
    if json:
        typer.echo(document, nl=False)
    else:
        print_report(Console(width=max(_WIDTH_MIN, Console().width)), summary)
    _say(f"{directory} holds {ANSWERS_FILE}, {SUMMARY_FILE} and {PICTURE_FILE}.")
    if summary.errors:
        _say(
            f"{summary.errors} calls failed; the same command with --out {directory} repeats them."
        )
        raise typer.Exit(1)


def _locate(dataset: str) -> Path:
    if dataset != _DEMO:
        return Path(dataset)
    if not DEMO_QUESTIONS.is_file():
        raise InvalidDataset(DEMO_QUESTIONS, None, "the demo's questions are not installed")
    return DEMO_QUESTIONS


def _name_directory(dataset: str) -> Path:
    """A new directory for each run, because the models behind an address may change."""
    return Path("evaluation") / f"{dataset}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _parse_models(text: str) -> Sequence[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if "" in names:
        raise typer.BadParameter(f"'{text}' is not a list of models", param_hint="--models")
    return names


def _parse_prices(text: str | None) -> Mapping[str, float]:
    try:
        pairs = [pair.split("=") for pair in text.split(",")] if text else []
        return {tier.strip(): float(price) for tier, price in pairs}
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not TIER=PRICE,...", param_hint="--prices") from None


def _say(text: str) -> None:
    typer.echo(text, err=True)
