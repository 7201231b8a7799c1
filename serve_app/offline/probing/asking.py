"""The calls that bring a model's signals: one HTTP call each, to an engine's own server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from serve_app.feedback.judge import Language, parse_verdict, render_question
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.probing.questions import Question

ANSWER_TOKENS_MAX = 96
TOP_LOGPROBS = 20
"""The most that vLLM gives unless `max_logprobs` says otherwise."""
SAMPLES = 5
TEMPERATURE = 0.7
_CHAT = "/v1/chat/completions"
FLOOR = -30.0
"""Log-probabilities below this, minus infinity among them, count as this."""

_KNOWS: Mapping[str, tuple[str, tuple[str, str]]] = {
    "en": (
        "\n\nDo not answer yet. Will your answer be right? Reply with yes or no only.",
        ("yes", "no"),
    ),
    "zh": ("\n\n先不要回答。你的回答会是正确的吗？只回复“会”或“不会”。", ("会", "不会")),
}


class CallFailed(BenchFailed):
    """An engine did not answer a call."""


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, and the log-probabilities of its tokens."""

    text: str
    logprobs: Sequence[float]


class Asker:
    """Asks one model."""

    def __init__(self, session: aiohttp.ClientSession, model: str) -> None:
        self._session = session
        self._model = model

    async def answer(self, question: Question, tokens_max: int = ANSWER_TOKENS_MAX) -> Written:
        """Its answer at temperature 0."""
        document = await self._chat(question.messages, max_tokens=tokens_max, logprobs=True)
        choice = document["choices"][0]
        logprobs = [_bound(token["logprob"]) for token in choice["logprobs"]["content"]]
        text = choice["message"]["content"] or ""
        return Written(text, logprobs)

    async def look(self, question: Question) -> Sequence[float]:
        """The log-probabilities of the likeliest first tokens."""
        top = await self._first_token(question.messages)
        return [logprob for _, logprob in top]

    async def read(self, question: Question) -> Sequence[float]:
        """The log-probabilities of the prompt's tokens, from the second on."""
        document = await self._chat(question.messages, max_tokens=1, prompt_logprobs=0)
        tokens = [entry for entry in document["prompt_logprobs"] if entry]
        return [_bound(max(token["logprob"] for token in entry.values())) for entry in tokens]

    async def knows(self, question: Question) -> float:
        """P(yes) to the question whether its answer will be right, before it has written any."""
        asked, choices = _KNOWS[question.language]
        *earlier, last = question.messages
        messages = [*earlier, {**last, "content": last["content"] + asked}]
        top = await self._first_token(messages, structured_outputs={"choice": choices})
        yes, no = (_weigh(top, choice, choices) for choice in choices)
        return yes / (yes + no) if yes + no else 0.5

    async def sample(self, question: Question) -> Sequence[str]:
        """Answers at a temperature, the same in every run."""
        document = await self._chat(
            question.messages,
            max_tokens=ANSWER_TOKENS_MAX,
            n=SAMPLES,
            temperature=TEMPERATURE,
            seed=1,
        )
        return [choice["message"]["content"] or "" for choice in document["choices"]]

    async def pool(self, question: Question) -> Sequence[float]:
        """The last hidden state after the prompt; the server must run the model for pooling."""
        body = {"messages": question.messages, "add_generation_prompt": True, "task": "embed"}
        document = await self._post("/pooling", {"model": self._model, **body})
        return [float(value) for value in document["data"][0]["data"]]

    async def judge(
        self, question: Question, a: str, b: str, language: Language
    ) -> tuple[bool, bool] | None:
        """Its verdict on two answers in this order."""
        body = render_question(self._model, question.turns, a, b, language)
        document = await self._post(_CHAT, orjson.loads(body))
        return parse_verdict(document["choices"][0]["message"]["content"] or "")

    async def _first_token(
        self, messages: Sequence[Mapping[str, str]], **options: Any
    ) -> Sequence[tuple[str, float]]:
        document = await self._chat(
            messages, max_tokens=1, logprobs=True, top_logprobs=TOP_LOGPROBS, **options
        )
        (token,) = document["choices"][0]["logprobs"]["content"]
        return [(each["token"], _bound(each["logprob"])) for each in token["top_logprobs"]]

    async def _chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Any:
        body = {"model": self._model, "messages": messages, "temperature": 0, **options}
        return await self._post(_CHAT, body)

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with self._session.post(path, json=body) as response:
            if response.status != 200:
                raise CallFailed(f"status {response.status}: {(await response.text())[:500]}")
            return orjson.loads(await response.read())


def _bound(logprob: float | None) -> float:
    return FLOOR if logprob is None else min(max(logprob, FLOOR), 0.0)


def _weigh(top: Sequence[tuple[str, float]], choice: str, choices: Sequence[str]) -> float:
    """The probability that the first token begins this choice and no other."""
    others = [other for other in choices if other != choice]
    return sum(
        math.exp(logprob)
        for token, logprob in top
        if token and choice.startswith(token) and not any(o.startswith(token) for o in others)
    )
