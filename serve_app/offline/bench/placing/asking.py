"""Sends a workload to a server, as conversations do: a question after the answer before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.placing.workloads import ANSWER_TOKENS, Message, Thread, Workload
from serve_app.offline.bench.summary import percentile

_CALL_S = 120.0


class CallFailed(BenchFailed):
    """A server did not answer a call completely."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One call: the time to its first text, and what its engine said of its prompt."""

    first_s: float
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Result:
    """A workload on a server. `hit_ratio` is the cached part of all prompts' tokens, as the engines
    count it."""

    server: str
    workload: str
    calls: int
    calls_per_s: float
    first_p50_ms: float
    first_p99_ms: float
    prompt_tokens: int
    hit_ratio: float


async def drive(server: str, url: str, model: str, workload: Workload) -> Result:
    """The result of a workload.

    Raises:
        CallFailed: a call was not answered.
    """
    places = asyncio.Semaphore(workload.at_a_time)
    timeout = aiohttp.ClientTimeout(total=_CALL_S)
    began = time.perf_counter()
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        jobs = [_converse(session, places, model, thread) for thread in workload.threads]
        answered = [each for calls in await asyncio.gather(*jobs) for each in calls]
    return _sum_up(server, workload.name, answered, time.perf_counter() - began)


def _sum_up(server: str, workload: str, calls: Sequence[Answered], seconds: float) -> Result:
    firsts = [each.first_s * 1000 for each in calls]
    tokens = sum(each.prompt_tokens for each in calls)
    return Result(
        server,
        workload,
        len(calls),
        len(calls) / seconds,
        percentile(firsts, 0.5),
        percentile(firsts, 0.99),
        tokens,
        sum(each.cached_tokens for each in calls) / tokens,
    )


async def _converse(
    session: aiohttp.ClientSession, places: asyncio.Semaphore, model: str, thread: Thread
) -> Sequence[Answered]:
    """The calls of one conversation; each has the texts of those before it."""
    messages: list[Message] = []
    if thread.system:
        messages.append({"role": "system", "content": thread.system})
    answered = []
    async with places:
        for question in thread.questions:
            messages.append({"role": "user", "content": question})
            call, text = await _ask(session, model, thread.name, messages)
            messages.append({"role": "assistant", "content": text})
            answered.append(call)
    return answered


async def _ask(
    session: aiohttp.ClientSession, model: str, name: str, messages: Sequence[Message]
) -> tuple[Answered, str]:
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    headers = {"x-session-id": name}
    async with session.post("/v1/chat/completions", json=body, headers=headers) as response:
        if response.status != 200:
            raise CallFailed(f"status {response.status}: {(await response.text())[:500]}")
        reader = _AnswerReader(began)
        async for line in response.content:
            reader.read(line)
    return reader.answered(), "".join(reader.texts)


class _AnswerReader:
    """Reads the events of one answer."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._first_s: float | None = None
        self._usage: Mapping[str, Any] | None = None
        self.texts: list[str] = []

    def read(self, line: bytes) -> None:
        """A line of the event stream."""
        if not line.startswith(b"data: {"):
            return
        event = orjson.loads(line[len(b"data: ") :])
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices", ()):
            if text := choice["delta"].get("content"):
                self.texts.append(text)
                if self._first_s is None:
                    self._first_s = time.perf_counter() - self._began

    def answered(self) -> Answered:
        """The call.

        Raises:
            CallFailed: the answer has no text or no usage.
        """
        if self._first_s is None or self._usage is None:
            raise CallFailed("an answer without text, or without the usage of its tokens")
        details = self._usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        return Answered(self._first_s, self._usage["prompt_tokens"], cached)
