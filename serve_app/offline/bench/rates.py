"""Measure the two rates of one replica that `replicas.policy: llm` plans with, under a real load.

Both phases are closed loops with as many clients as the replica takes calls. In the first phase
every answer has one token, so the engine only reads prompts. The second phase makes typical calls.
Its time, minus the time for its prompts at the rate of the first phase, is the time for its
answers. The work of the typical call, as `Capacity.work_s` counts it, is therefore exactly the work
that the replica did.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import orjson

from serve_app.offline.bench.bench_errors import CallFailed, PromptsTakeAll, WindowTooShort
from serve_app.offline.bench.connection import LoadConnection, RequestFailed, connect
from serve_app.offline.bench.summary import percentile

TOKEN_IDS = (256, 1280)
"""The token ids of random prompts: every vocabulary of 2,000 or more has them, above Qwen's first
256 bytes and below its special tokens.
"""
PROMPT_SHARE_MAX = 0.9
"""The largest share of the second phase that prompts may take. Above it, the time for answers is a
small difference of large numbers."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of the completions endpoint. `path` begins with a slash."""

    host: str
    port: int
    path: str
    model: str


@dataclass(frozen=True, slots=True)
class Shape:
    """The calls of a phase, and their concurrency."""

    prompt_tokens: int
    output_tokens: int
    clients: int


@dataclass(frozen=True, slots=True)
class Call:
    """One answered call, in seconds of one clock."""

    shape: Shape
    sent_s: float
    first_token_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Counted:
    """The work per second in a phase's window, and the waits for first tokens."""

    prompt_tokens_per_s: float
    output_tokens_per_s: float
    calls_per_s: float
    waits_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of all replicas that were asked. The last three are for the typical calls."""

    prompt_tokens_per_s: float
    output_tokens_per_s: float
    calls_per_s: float
    first_token_p50_s: float
    first_token_p99_s: float

    def divide(self, replicas: int) -> Rates:
        """The rates of one replica, if these are the rates of this many replicas."""
        return replace(
            self,
            prompt_tokens_per_s=self.prompt_tokens_per_s / replicas,
            output_tokens_per_s=self.output_tokens_per_s / replicas,
            calls_per_s=self.calls_per_s / replicas,
        )


async def measure_rates(endpoint: Endpoint, typical: Shape, window_s: float) -> Rates:
    """Measure both phases, one after the other.

    Raises:
        CallFailed: a call was not answered in full.
        WindowTooShort: no call began in a window.
        PromptsTakeAll: the answers are too short to be separated from the prompts.
    """
    prompts = Shape(typical.prompt_tokens, 1, typical.clients)
    reading = await run_phase(endpoint, prompts, window_s)
    mixed = await run_phase(endpoint, typical, window_s)
    return solve(reading, mixed)


def solve(reading: Counted, mixed: Counted) -> Rates:
    """The rates for which the work of the second phase's calls fills its time."""
    share = mixed.prompt_tokens_per_s / reading.prompt_tokens_per_s
    if share > PROMPT_SHARE_MAX:
        raise PromptsTakeAll(share)
    return Rates(
        prompt_tokens_per_s=reading.prompt_tokens_per_s,
        output_tokens_per_s=mixed.output_tokens_per_s / (1 - share),
        calls_per_s=mixed.calls_per_s,
        first_token_p50_s=percentile(mixed.waits_s, 0.5),
        first_token_p99_s=percentile(mixed.waits_s, 0.99),
    )


async def run_phase(endpoint: Endpoint, shape: Shape, window_s: float) -> Counted:
    """Keep the clients busy, and count the results of the calls of one window.

    Raises:
        CallFailed: a call was not answered in full.
        WindowTooShort: no call began in the window.
    """
    phase = _Phase(endpoint, shape)
    try:
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(phase.client(i)) for i in range(shape.clients)]
            begin_s, end_s = await phase.watch(window_s)
            for client in clients:
                client.cancel()
    except* RequestFailed as failures:
        raise CallFailed(endpoint.path, str(failures.exceptions[0])) from None
    return count(phase.calls, begin_s, end_s)


class _Phase:
    """The clients of a phase, and the calls that have ended."""

    def __init__(self, endpoint: Endpoint, shape: Shape) -> None:
        self.calls: list[Call] = []
        self._endpoint, self._shape = endpoint, shape
        self._chance = random.Random(0)
        self._sent_s: dict[int, float] = {}
        self._warm: set[int] = set()
        self._ended = asyncio.Event()

    async def watch(self, window_s: float) -> tuple[float, float]:
        """The window: from when every client has had an answer until its calls have ended.

        The clients go on meanwhile, so that the last calls meet the same load.
        """
        await self._wait_while(lambda: len(self._warm) < self._shape.clients)
        begin_s = perf_counter()
        await asyncio.sleep(window_s)
        end_s = perf_counter()
        await self._wait_while(lambda: any(sent_s < end_s for sent_s in self._sent_s.values()))
        return begin_s, end_s

    async def _wait_while(self, holds: Callable[[], bool]) -> None:
        while holds():
            self._ended.clear()
            await self._ended.wait()

    async def client(self, number: int) -> None:
        """Make calls until cancelled. First answers differ in length, so that calls do not stay in
        step."""
        shape = self._shape
        share = (number + 1) / shape.clients
        output_tokens = math.ceil(shape.output_tokens * share)
        connection: LoadConnection | None = None
        try:
            while True:
                if connection is None or not connection.reusable:
                    connection = await connect(self._endpoint.host, self._endpoint.port)
                await self._ask(connection, number, output_tokens)
                output_tokens = shape.output_tokens
        finally:
            if connection is not None:
                connection.close()

    async def _ask(self, connection: LoadConnection, number: int, output_tokens: int) -> None:
        shape = Shape(self._shape.prompt_tokens, output_tokens, self._shape.clients)
        request = render_request(self._endpoint, shape, self._chance)
        self._sent_s[number] = sent_s = perf_counter()
        sample = await connection.ask(request, stream=True)
        del self._sent_s[number]
        first_s, ended_s = sent_s + sample.first_event_s, sent_s + sample.total_s
        self.calls.append(Call(shape, sent_s, first_s, ended_s))
        self._warm.add(number)
        self._ended.set()


def count(calls: Sequence[Call], begin_s: float, end_s: float) -> Counted:
    """Count the work within a window; a call that crosses an edge counts in part.

    A prompt counts evenly over the wait for the first token, an answer over the time after it.

    Raises:
        WindowTooShort: no call began in the window.
    """
    prompts = outputs = ended = 0.0
    waits: list[float] = []
    for call in calls:
        prompts += call.shape.prompt_tokens * _overlap(
            call.sent_s, call.first_token_s, begin_s, end_s
        )
        outputs += call.shape.output_tokens * _overlap(
            call.first_token_s, call.ended_s, begin_s, end_s
        )
        ended += _overlap(call.sent_s, call.ended_s, begin_s, end_s)
        if begin_s <= call.sent_s < end_s:
            waits.append(call.first_token_s - call.sent_s)
    span_s = end_s - begin_s
    if not waits:
        raise WindowTooShort(span_s)
    return Counted(prompts / span_s, outputs / span_s, ended / span_s, waits)


def _overlap(from_s: float, to_s: float, begin_s: float, end_s: float) -> float:
    """The part of a time that lies in the window; a moment lies in it or not."""
    if to_s <= from_s:
        return float(begin_s <= to_s < end_s)
    return max(0.0, min(to_s, end_s) - max(from_s, begin_s)) / (to_s - from_s)


def render_request(endpoint: Endpoint, shape: Shape, chance: random.Random) -> bytes:
    """A streamed completion of a prompt that no cache has seen; token ids make its length exact."""
    document = {
        "model": endpoint.model,
        "prompt": [chance.randrange(*TOKEN_IDS) for _ in range(shape.prompt_tokens)],
        "max_tokens": shape.output_tokens,
        "ignore_eos": True,
        "stream": True,
    }
    body = orjson.dumps(document)
    head = (
        f"POST {endpoint.path} HTTP/1.1\r\nhost: {endpoint.host}:{endpoint.port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
