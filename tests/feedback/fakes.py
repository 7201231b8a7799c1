"""Tiers that answer label calls, and the answers of engines in every dialect."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson

from serve_app.core.call import Endpoint
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import GatewayError
from serve_app.core.load import TierLoad
from serve_app.leases.client import UpstreamRequest
from tests.fakes import FakeAnswer, FakeTier

DEADLINE_S = 5.0


def whole(endpoint: Endpoint, text: str) -> bytes:
    """A complete answer as vLLM writes it, as far as it matters here."""
    message = {"role": "assistant", "content": text}
    part = {"type": "output_text", "text": text, "annotations": []}
    documents = {
        Endpoint.CHAT: {"choices": [{"index": 0, "message": message}]},
        Endpoint.COMPLETIONS: {"choices": [{"index": 0, "text": text}]},
        Endpoint.RESPONSES: {
            "status": "completed",
            "error": None,
            "output": [
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [part]},
            ],
        },
        Endpoint.MESSAGES: {
            "type": "message",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
        },
    }
    return orjson.dumps(documents[endpoint])


def streamed(endpoint: Endpoint, *pieces: str) -> bytes:
    """The same as server-sent events."""
    if endpoint is Endpoint.CHAT:
        events = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            *({"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces),
            {"choices": [], "usage": {"prompt_tokens": 1}},
        ]
    elif endpoint is Endpoint.COMPLETIONS:
        events = [{"choices": [{"index": 0, "text": piece}]} for piece in pieces]
    elif endpoint is Endpoint.RESPONSES:
        events = [
            {"type": "response.created", "response": {"status": "in_progress"}},
            *({"type": "response.output_text.delta", "delta": piece} for piece in pieces),
            {"type": "response.completed", "response": {"status": "completed"}},
        ]
    else:
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
        events = [
            {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
            *({"type": "content_block_delta", "delta": delta} for delta in deltas),
            {"type": "message_stop"},
        ]
    lines = [
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n"
        for event in events
    ]
    done = "" if endpoint in (Endpoint.RESPONSES, Endpoint.MESSAGES) else "data: [DONE]\n\n"
    return ("".join(lines) + done).encode()


class TalkingTier(FakeTier):
    """Gives every call an answer made from its body; silent while `silent` is set."""

    def __init__(self, say: Callable[[dict[str, object]], str] = lambda body: "42") -> None:
        super().__init__()
        self.say = say
        self.silent = False
        self.errors: list[GatewayError] = []
        self.status = 200
        self.usage: dict[str, int] | None = None
        """The tokens that a whole answer tells."""
        self.foreign = 0
        """Calls of other Routers, as the engines tell of them."""
        self.told: bool = False
        """Whether the engines tell anything."""

    def load(self) -> TierLoad:
        if not self.told:
            state = self.state
            return TierLoad(down=state.down, ongoing=self.open_exchanges, waiting=state.waiting)
        running = self.open_exchanges + self.foreign
        return TierLoad(ongoing=self.open_exchanges, running=running, queued=0)

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        if self.errors:
            self.requests.append(request)
            raise self.errors.pop(0)
        endpoint = Endpoint(request._path.decode())
        self.answer = self.make_answer(endpoint, json.loads(request._body))
        async with super().exchange(request, deadlines) as answer:
            yield answer

    def make_answer(self, endpoint: Endpoint, body: dict[str, object]) -> FakeAnswer:
        """Streamed, a word a piece, where that is asked for."""
        text = self.say(body)
        if body.get("stream"):
            chunks = streamed(endpoint, *re.split(r"(?<= )", text)).splitlines(keepends=True)
            return FakeAnswer(chunks, content_type=b"text/event-stream")
        answer = whole(endpoint, text)
        if self.usage is not None:
            answer = orjson.dumps({**orjson.loads(answer), "usage": self.usage})
        chunks = [] if self.silent else [answer]
        return FakeAnswer(chunks, status=self.status, hang=self.silent)

    def bodies(self) -> list[dict[str, object]]:
        """What it was asked so far."""
        return [json.loads(request._body) for request in self.requests]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a state that announces itself to nobody."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)
