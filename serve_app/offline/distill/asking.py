"""Asks the strong tier the questions of a log whose answers are missing or unjudged.

Each question is asked twice, once without chance and once with some. Where the two answers have
the same result, the first counts as right; a model that guesses seldom guesses alike twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import httpx

from serve_app.feedback.compare import same
from serve_app.offline.distill.log_rows import Row
from serve_app.offline.distill.selection import Fate
from serve_app.offline.evaluate.answers import GradedAnswer, Settings
from serve_app.offline.evaluate.client import Client
from serve_app.offline.evaluate.dataset import Item

SOURCE = "asked for the lesson"
SECOND_TEMPERATURE = 0.7
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
# The questions are in the log already.
_HEADERS = {"x-feedback-consent": "no"}


class AnyAnswer:
    """A check that every answer passes; agreement decides instead."""

    def passes(self, answer: str) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True, slots=True)
class Strong:
    """The endpoint to ask."""

    base_url: str
    model: str
    headers: Mapping[str, str]
    concurrency: int = 8
    max_tokens: int = 512


async def ask_rows(
    rows: Sequence[Row], strong: Strong, note: Callable[[], None] = lambda: None
) -> tuple[list[Row], Counter[Fate]]:
    """The rows whose two answers agree, and the number of the others by reason.

    Raises:
        EvaluationFailed: no call can succeed.
    """
    limits = httpx.Limits(max_connections=strong.concurrency)
    headers = {**_HEADERS, **strong.headers}
    pending = iter(rows)
    taught, failed = list[Row](), Counter[Fate]()
    async with httpx.AsyncClient(
        base_url=strong.base_url, headers=headers, timeout=_TIMEOUT, limits=limits
    ) as http:
        clients = [Client(http, _settings(strong, t)) for t in (0.0, SECOND_TEMPERATURE)]

        async def work() -> None:
            for row in pending:
                answers = [await client.ask(strong.model, _item(row)) for client in clients]
                outcome = judge(answers, strong.max_tokens)
                if isinstance(outcome, Fate):
                    failed[outcome] += 1
                else:
                    taught.append(replace(row, answer=outcome, source=SOURCE, strong=1.0))
                note()

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(strong.concurrency, len(rows))):
                    workers.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return taught, failed


def judge(answers: Sequence[GradedAnswer], tokens_max: int) -> str | Fate:
    """The answer to teach, or the reason why there is none."""
    first, second = answers
    if not (first.answer and second.answer) or any(_is_cut_off(a, tokens_max) for a in answers):
        return Fate.CUT_OFF
    return first.answer if same(first.answer, second.answer) else Fate.DISAGREES


def _is_cut_off(answer: GradedAnswer, tokens_max: int) -> bool:
    return (answer.usage or {}).get("completion_tokens", 0) >= tokens_max


def _settings(strong: Strong, temperature: float) -> Settings:
    return Settings("", strong.base_url, strong.max_tokens, temperature, seed=0)


def _item(row: Row) -> Item:
    messages = [{"role": turn.role, "content": turn.content} for turn in row.conversation]
    return Item("", messages, AnyAnswer())
