"""The strongest tier as judge."""

from __future__ import annotations

import json
import re

import pytest

from serve_app.core.call import Turn
from serve_app.feedback.judge import (
    JUDGE_PROMPTS,
    Language,
    choose_language,
    parse_verdict,
    render_question,
)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_question_for_the_judge(language: Language) -> None:
    """The answers stand as material, in the order given, and the reply has one form."""
    turns = (Turn("user", 'Is "x" right?'),)
    body = json.loads(render_question("demo-strong", turns, "small", "large", language))
    system, user = body["messages"]
    assert system["content"] == JUDGE_PROMPTS[language]
    assert json.loads(user["content"]) == {
        "conversation": [{"role": "user", "text": 'Is "x" right?'}],
        "answer_a": "small",
        "answer_b": "large",
    }
    assert (body["model"], body["temperature"], body["stream"]) == ("demo-strong", 0, False)
    form = body["structured_outputs"]["regex"]
    assert re.fullmatch(form, '{"a_right": true, "b_right": false}')


def test_a_verdict() -> None:
    """In the order in which the judge saw the answers."""
    assert parse_verdict('{"a_right": true, "b_right": false}') == (True, False)


@pytest.mark.parametrize(
    "text", ["", "A is right", "[]", "{}", '{"a_right": 1, "b_right": 0}', '{"a_right": true}']
)
def test_no_verdict(text: str) -> None:
    """What is not what was asked for is none."""
    assert parse_verdict(text) is None


@pytest.mark.parametrize(
    ("text", "language"),
    [("What is 2 + 2?", "en"), ("二加二等于几？", "zh"), ("把 no 翻译成中文", "zh"), ("42", "en")],
)
def test_the_judges_language_is_the_last_questions(text: str, language: Language) -> None:
    """Earlier turns and answers do not count."""
    turns = (Turn("user", "你好，早上好！"), Turn("assistant", "你好！"), Turn("user", text))
    assert choose_language(turns) == language
