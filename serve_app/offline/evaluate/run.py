"""Ask every model every question once, with limited concurrency."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from serve_app.offline.evaluate.answers import GradedAnswer
from serve_app.offline.evaluate.client import Client
from serve_app.offline.evaluate.dataset import Dataset, Item
from serve_app.offline.evaluate.evaluation_errors import EvaluationFailed

Call = tuple[str, Item]


def plan_calls(
    dataset: Dataset, models: Sequence[str], answers: Iterable[GradedAnswer], seed: int
) -> list[Call]:
    """The calls without an answer, in random order, so that a drift hits all models alike."""
    done = {(answer.model, answer.id) for answer in answers}
    calls = [(model, item) for item in dataset.items for model in models]
    random.Random(seed).shuffle(calls)
    return [(model, item) for model, item in calls if (model, item.id) not in done]


async def make_calls(
    client: Client, calls: Sequence[Call], concurrency: int, take: Callable[[GradedAnswer], None]
) -> None:
    """Make the calls, and hand over each answer as it comes.

    Raises:
        EvaluationFailed: a call showed that the other calls cannot succeed; they are cancelled.
    """
    pending = iter(calls)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(calls))):
                workers.create_task(_work(client, pending, take))
    except* EvaluationFailed as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure


async def _work(
    client: Client, calls: Iterator[Call], take: Callable[[GradedAnswer], None]
) -> None:
    for model, item in calls:
        take(await client.ask(model, item))
