"""Which calls are made, how many at a time, and what ends them."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest

from serve_app.offline.evaluate.answers import GradedAnswer
from serve_app.offline.evaluate.checks import parse_check
from serve_app.offline.evaluate.dataset import Dataset, Item
from serve_app.offline.evaluate.evaluation_errors import CallRefused
from serve_app.offline.evaluate.run import make_calls, plan_calls
from tests.offline.evaluate.fakes import (
    FakeEndpoint,
    build_client,
    refuse,
    render_stream,
    send,
    stream,
)

MODELS = ["fast", "strong", "auto"]
SEVEN = parse_check({"type": "exact", "value": "7"})
DATASET = Dataset(
    "d", "0", [Item(str(n), [{"role": "user", "content": "?"}], SEVEN) for n in range(9)]
)


def test_every_model_is_asked_every_question() -> None:
    """Once each, mixed, and in the same order for a seed."""
    calls = plan_calls(DATASET, MODELS, [], seed=0)
    names = [(model, item.id) for model, item in calls]
    assert sorted(names) == sorted((model, item.id) for model in MODELS for item in DATASET.items)
    assert {model for model, _ in names[:9]} == set(MODELS)
    assert names == [(model, item.id) for model, item in plan_calls(DATASET, MODELS, [], seed=0)]
    assert names != [(model, item.id) for model, item in plan_calls(DATASET, MODELS, [], seed=1)]


def test_what_is_answered_is_not_asked_again() -> None:
    """Answers of other models to the same question do not count."""
    answers = [GradedAnswer("0", "fast", right=True), GradedAnswer("1", "other", right=True)]
    calls = plan_calls(DATASET, ["fast"], answers, seed=0)
    assert sorted(item.id for _, item in calls) == list("12345678")


async def test_so_many_calls_at_a_time() -> None:
    """Never more, and as many as long as there are enough."""
    now, most = 0, 0

    async def body(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        model = orjson.loads(request.content)["model"]
        return httpx.Response(200, content=send(render_stream(model)))

    answers: list[GradedAnswer] = []
    calls = plan_calls(DATASET, MODELS, [], seed=0)
    await make_calls(build_client(httpx.MockTransport(body)), calls, 4, answers.append)
    assert (most, len(answers)) == (4, 27)
    assert all(answer.answer == answer.model for answer in answers)


async def test_nothing_to_do() -> None:
    """Everything is answered already: nobody is asked."""
    endpoint = FakeEndpoint([refuse(500)])
    await make_calls(endpoint.client(), [], 4, lambda answer: None)
    assert endpoint.requests == []


async def test_a_refusal_ends_the_run() -> None:
    """It is raised as it is, once, and what was answered before has been handed over."""
    endpoint = FakeEndpoint([lambda request: stream(render_stream("7")), refuse(404)])
    answers: list[GradedAnswer] = []
    calls = plan_calls(DATASET, MODELS, [], seed=0)
    with pytest.raises(CallRefused):
        await make_calls(endpoint.client(), calls, 3, answers.append)
    assert len(endpoint.requests) <= 4
    assert len(answers) <= 1


async def test_a_failed_call_does_not_end_the_run() -> None:
    """It is an answer with an error."""
    endpoint = FakeEndpoint([refuse(500), lambda request: stream(render_stream("7"))])
    answers: list[GradedAnswer] = []
    await make_calls(endpoint.client(), plan_calls(DATASET, MODELS, [], 0), 1, answers.append)
    assert [answer.right for answer in answers] == [None] + [True] * 26
