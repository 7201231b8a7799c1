"""Mixed traffic: every endpoint, every way of routing, cancels, errors and feedback."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

HELLO = [{"role": "user", "content": "Hello"}]
QUESTIONS = (
    "What is the capital of France?",
    "What is 7 + 5?",
    "Sort these numbers: 9, 4, 7.",
    "Tom has 4 boxes with 6 apples each and gives away 9. How many apples are left?",
    "Write a JSON object with the keys name and age.",
)
PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call: what is sent, and which statuses are right."""

    name: str
    share: int
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: frozenset[int] = frozenset({200})
    cancels: bool = False
    """The client leaves after the first bytes of the answer."""
    asks: str = "messages"
    """The field that holds the question; empty: the body is complete."""
    method: str = "POST"


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SHORT = {"max_tokens": 24, "temperature": 0.8}
LONG = {"max_tokens": 400, "ignore_eos": True}
CASCADE = {"x-route-policy": "cascade"}
KINDS = (
    Kind("chat, auto, streamed", 20, CHAT, {**SHORT, "model": "auto", "stream": True}),
    Kind("chat, auto, whole", 12, CHAT, {**SHORT, "model": "auto"}),
    Kind("chat, fast, streamed", 8, CHAT, {**SHORT, "model": "fast", "stream": True}),
    Kind("chat, strong, whole", 8, CHAT, {**SHORT, "model": "strong"}),
    Kind("chat, cascade, streamed", 8, CHAT, {**SHORT, "stream": True}, CASCADE),
    Kind("chat, cascade, whole", 4, CHAT, dict(SHORT), CASCADE),
    Kind("completions", 5, COMPLETIONS, {**SHORT, "model": "fast"}, asks="prompt"),
    Kind(
        "responses, streamed",
        5,
        "/v1/responses",
        {"model": "fast", "max_output_tokens": 24, "stream": True},
        asks="input",
    ),
    Kind("messages", 5, "/v1/messages", {"model": "fast", "max_tokens": 24}),
    Kind("tokenize", 3, "/tokenize", {"model": "fast"}, asks="prompt"),
    Kind("models", 2, "/v1/models", method="GET", asks=""),
    Kind("ready", 2, "/ready", method="GET", asks=""),
    Kind("cancelled", 8, CHAT, {**LONG, "model": "auto", "stream": True}, cancels=True),
    Kind(
        "embeddings, no such tier",
        2,
        "/v1/embeddings",
        {"model": "fast"},
        statuses=frozenset({400, 404}),
        asks="input",
    ),
    Kind("unknown model", 2, CHAT, {"model": "nobody"}, statuses=frozenset({404})),
    Kind("wrong body", 2, CHAT, {"max_tokens": -1}, statuses=frozenset({400}), asks=""),
    Kind("too long", 1, CHAT, {"model": "fast", "messages": "long"}, statuses=frozenset({400})),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one call; `first_s` is the time to the first byte."""

    kind: str
    at_s: float
    status: int
    first_s: float
    total_s: float


class Traffic:
    """Clients in a closed loop, each with its own draw of kinds."""

    def __init__(self, base_url: str, seed: int) -> None:
        self.answers: list[Answer] = []
        self.wrong: Counter[str] = Counter()
        """Calls whose outcome was not the right one, by kind and what came instead."""
        self._base_url = base_url
        self._seed = seed
        self._began_at = time.monotonic()
        self._kinds = {kind.name: kind for kind in KINDS}

    async def run(self, clients: int, seconds: float) -> None:
        """Call until the time is over, and wait for the last answers."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
        self._began_at = time.monotonic()
        async with httpx.AsyncClient(
            base_url=self._base_url, timeout=120, limits=limits, trust_env=False
        ) as client:
            until = self._began_at + seconds
            await asyncio.gather(
                *(self._client(client, number, until) for number in range(clients))
            )

    async def _client(self, client: httpx.AsyncClient, number: int, until: float) -> None:
        draw = random.Random(f"{self._seed} {number}")
        shares = [kind.share for kind in KINDS]
        while time.monotonic() < until:
            [kind] = draw.choices(KINDS, shares)
            try:
                await self._call(client, kind, draw)
            except httpx.HTTPError as error:
                self.wrong[f"{kind.name}: {type(error).__name__}"] += 1
            await asyncio.sleep(PAUSE_S * draw.random())

    async def _call(self, client: httpx.AsyncClient, kind: Kind, draw: random.Random) -> None:
        request_id = str(uuid.UUID(int=draw.getrandbits(128)))
        began_at = time.monotonic()
        async with client.stream(
            kind.method,
            kind.path,
            json=fill_body(kind, draw) if kind.method == "POST" else None,
            headers={**kind.headers, "x-request-id": request_id},
        ) as response:
            first_at, last = await read(response, cancels=kind.cancels)
        self._note(kind, response.status_code, began_at, first_at)
        if is_broken(kind, response, last):
            self.wrong[f"{kind.name}: the stream ends without its last event"] += 1
        if kind.path == CHAT and response.status_code == 200 and draw.random() < 0.2:
            await self._tell(client, request_id)

    def _note(self, kind: Kind, status: int, began_at: float, first_at: float) -> None:
        now = time.monotonic()
        at_s = began_at - self._began_at
        self.answers.append(Answer(kind.name, at_s, status, first_at - began_at, now - began_at))
        if status not in kind.statuses:
            self.wrong[f"{kind.name}: status {status}"] += 1

    async def _tell(self, client: httpx.AsyncClient, request_id: str) -> None:
        """The verdict of the application on an answer; taken whether or not the call was kept."""
        report = {"request_id": request_id, "right": True}
        response = await client.post("/v1/feedback", json=report)
        if response.status_code != 202:
            self.wrong[f"feedback: status {response.status_code}"] += 1


async def read(response: httpx.Response, *, cancels: bool) -> tuple[float, bytes]:
    """Read an answer: when its first bytes came, and its last bytes."""
    first_at, last = time.monotonic(), b""
    async for chunk in response.aiter_raw():
        if not last:
            first_at = time.monotonic()
        last = (last + chunk)[-64:]
        if cancels:
            break
    return first_at, last


def is_broken(kind: Kind, response: httpx.Response, last: bytes) -> bool:
    """Whether a chat's stream that the client has read to its end has no end."""
    streamed = response.headers.get("content-type", "").startswith("text/event-stream")
    if not streamed or kind.cancels or kind.path != CHAT:
        return False
    return not last.rstrip().endswith(b"data: [DONE]")


def fill_body(kind: Kind, draw: random.Random) -> dict[str, Any]:
    """The body with a question; the number in it keeps caches from answering."""
    body = dict(kind.body)
    question = f"{draw.choice(QUESTIONS)} ({draw.randrange(10**6)})"
    if body.get("messages") == "long":
        question = "word " * 20_000
    if kind.asks == "messages":
        body["messages"] = [{"role": "user", "content": question}]
    elif kind.asks:
        body[kind.asks] = question
    return body


async def stop(task: asyncio.Task[None]) -> None:
    """End a task that runs for as long as something else does."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
