"""The calls to an engine, and the reading of its replies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from serve_app.offline.probing.asking import FLOOR, Asker, CallFailed
from serve_app.offline.probing.questions import draw_questions
from tests.offline.probing.fakes import engine

CHAT = "/v1/chat/completions"
QUESTION = draw_questions(0.05)[0]


def reply(text: str = "", **top: float) -> Mapping[str, Any]:
    """One answer whose first token had these candidates."""
    candidates = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
    token = {"logprob": -0.5, "top_logprobs": candidates}
    return {
        "choices": [{"message": {"content": text}, "logprobs": {"content": [token]}}],
        "prompt_logprobs": [None, {"7": {"logprob": -1.5}}, {"8": {"logprob": -99.0}}],
        "usage": {"total_tokens": 12},
    }


async def test_signals_of_a_chat_call() -> None:
    """Log-probabilities of the first token, of the prompt and of the answer, bounded below."""
    async with (
        engine({CHAT: reply("42", a=-0.5, b=-2.0)}) as (url, asked),
        aiohttp.ClientSession(url) as session,
    ):
        asker = Asker(session, "fast")
        assert await asker.look(QUESTION) == [-0.5, -2.0]
        assert await asker.read(QUESTION) == [-1.5, FLOOR]
        written = await asker.answer(QUESTION, 16)
    assert (written.text, written.logprobs) == ("42", [-0.5])
    assert [body["max_tokens"] for body in asked] == [1, 1, 16]
    assert asked[1]["prompt_logprobs"] == 0


async def test_p_yes_is_the_share_of_yes() -> None:
    """Of the tokens that begin one of the two replies alone."""
    found = reply(**{"ye": math.log(0.3), "no": math.log(0.1), "": math.log(0.6)})
    async with engine({CHAT: found}) as (url, asked), aiohttp.ClientSession(url) as session:
        assert await Asker(session, "fast").knows(QUESTION) == pytest.approx(0.75)
    assert asked[0]["messages"][-1]["content"].startswith(QUESTION.messages[-1]["content"])
    assert set(asked[0]["structured_outputs"]["choice"]) == {"yes", "no"}


async def test_a_hidden_state() -> None:
    """After the prompt, where the answer would begin."""
    replies = {"/pooling": {"data": [{"data": [0.5, -1]}]}}
    async with engine(replies) as (url, asked), aiohttp.ClientSession(url) as session:
        assert await Asker(session, "fast").pool(QUESTION) == [0.5, -1.0]
    assert asked[0]["add_generation_prompt"]


async def test_a_verdict() -> None:
    """In the order in which the answers were shown."""
    found = reply('{"a_right": true, "b_right": false}')
    async with engine({CHAT: found}) as (url, _), aiohttp.ClientSession(url) as session:
        assert await Asker(session, "strong").judge(QUESTION, "1", "2", "zh") == (True, False)


async def test_a_call_that_is_refused() -> None:
    """The status is in the error."""
    async with engine({}) as (url, _), aiohttp.ClientSession(url) as session:
        with pytest.raises(CallFailed, match="404"):
            await Asker(session, "fast").look(QUESTION)
