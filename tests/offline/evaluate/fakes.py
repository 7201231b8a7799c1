"""An endpoint that answers from a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import orjson

from serve_app.offline.evaluate.answers import Settings
from serve_app.offline.evaluate.client import Client

BASE_URL = "http://endpoint.test/v1"
SETTINGS = Settings("0" * 64, BASE_URL, max_tokens=64, temperature=0, seed=0)
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}

Respond = Callable[[httpx.Request], httpx.Response]


def render_event(document: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


def render_stream(*pieces: str, usage: Mapping[str, object] | None = USAGE) -> list[bytes]:
    """The events of a whole chat completion, as vLLM sends them."""
    deltas: list[Mapping[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces]
    events = [render_event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    events.append(render_event({"choices": [], "usage": usage}))
    return [*events, b"data: [DONE]\n\n"]


async def send(
    chunks: Sequence[bytes], error: httpx.HTTPError | None = None
) -> AsyncIterator[bytes]:
    """A body in these pieces, which perhaps breaks off."""
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


def stream(
    chunks: Sequence[bytes], error: httpx.HTTPError | None = None, **headers: str
) -> httpx.Response:
    """A streamed answer; `x_route_tier="fast"` is the header `x-route-tier`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, headers=named, content=send(chunks, error))


def refuse(status: int, message: str = "no", **headers: str) -> httpx.Response:
    """An error in OpenAI's format."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, json={"error": {"message": message}})


@dataclass
class FakeEndpoint:
    """Gives the scripted answers one after another, the last one again and again."""

    script: Sequence[httpx.Response | httpx.HTTPError | Respond]
    requests: list[httpx.Request] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        step = self.script[min(len(self.requests), len(self.script) - 1)]
        self.requests.append(request)
        if isinstance(step, httpx.HTTPError):
            raise step
        return step if isinstance(step, httpx.Response) else step(request)

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)

    def client(self, *, logprobs: bool = False) -> Client:
        """A client of this endpoint that waits for nothing."""
        return build_client(httpx.MockTransport(self), self.sleep, logprobs=logprobs)


def build_client(
    transport: httpx.MockTransport,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    *,
    logprobs: bool = False,
) -> Client:
    """A client of whatever answers there."""
    http = httpx.AsyncClient(transport=transport, base_url=BASE_URL)
    return Client(http, SETTINGS, sleep, logprobs=logprobs)
