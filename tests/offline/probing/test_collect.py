"""The collection of rows and costs, with an engine that says the same to all."""

from __future__ import annotations

import os

import pytest

from serve_app.offline.probing.asking import Written
from serve_app.offline.probing.collect import ANSWER, Collected, ask_all, build_row, time_all
from serve_app.offline.probing.engines import Engine
from serve_app.offline.probing.questions import draw_questions
from tests.offline.probing.fakes import engine

QUESTIONS = draw_questions(0.05)[:5]
REPLIES = {
    "/v1/chat/completions": {
        "choices": [{"message": {"content": "42"}, "logprobs": {"content": [{"logprob": -0.5}]}}]
    }
}


async def test_every_question_is_asked_and_timed() -> None:
    """The answers are kept by question and kind; a cost is what the engine's counters rose by."""
    found, said = Collected({question.key: {} for question in QUESTIONS}), list[str]()
    async with engine(REPLIES) as (url, asked):
        server = Engine(url, "fast", os.getpid())
        await ask_all(server, QUESTIONS, ANSWER, found, "fast", said.append)
        await time_all(server, QUESTIONS, ANSWER, found, said.append)
    assert len(asked) == 2 * len(QUESTIONS)
    assert all(kinds == {"fast answer": Written("42", [-0.5])} for kinds in found.said.values())
    [cost] = found.costs
    assert (cost.kind, cost.calls) == ("answer", len(QUESTIONS))
    assert cost.output_tokens == pytest.approx(3.0)


def test_a_row_is_judged_by_its_question() -> None:
    """Verdicts in another form than the requested form are left out."""
    question = QUESTIONS[0]
    said = {
        "fast answer": Written("", [-0.5]),
        "strong answer": Written("", []),
        "fast first": [-0.1, -3.0],
        "fast prompt": [-1.0],
        "fast knows": 0.5,
        "fast hidden": [1.0],
        "fast samples": ["42"],
        "judge en ab": (True, False),
        "judge en ba": None,
    }
    row = build_row(question, said)
    assert (row.key, row.fast_right) == (question.key, question.check.passes(""))
    assert row.verdicts == {"en ab": (True, False)}
