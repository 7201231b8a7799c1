"""One call: streamed, timed, retried if the endpoint asks for it, and judged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx
import orjson

from serve_app.offline.evaluate.answers import GradedAnswer, Settings
from serve_app.offline.evaluate.checks import CheckBroke
from serve_app.offline.evaluate.dataset import Item
from serve_app.offline.evaluate.evaluation_errors import CallRefused, EndpointDown

_BACKOFF_S = 0.5
_WAIT_S_MAX = 30.0
_ERROR_TEXT_MAX = 300
_LOGPROBS_MAX = 64
_BUSY = (429, 503)
# No other call with this key or to this model would succeed.
_REFUSED = (401, 403, 404)
_PLAIN_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class CallFailed(Exception):
    """The call has no answer; the message has the reason."""


class NotNow(CallFailed):
    """The call did not begin, so it may be retried."""

    tries = 6

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unreachable(NotNow):
    """No connection could be made."""

    tries = 3


class Refused(CallFailed):
    """The endpoint rejects every call of this kind."""


@dataclass(slots=True)
class Reply:
    """An answer as it comes in; times are seconds since the call was sent."""

    tier: str | None
    reason: str | None
    score: float | None
    pieces: list[str] = field(default_factory=list)
    ttft_s: float | None = None
    total_s: float | None = None
    usage: dict[str, int] | None = None
    logprobs: list[float] | None = None

    def take(self, event: bytes, at_s: float) -> None:
        """Take one event of the stream.

        Raises:
            CallFailed: the event is an error, or not a chunk of a chat completion.
        """
        if event == b"[DONE]":
            self.total_s = at_s
            return
        try:
            chunk = orjson.loads(event)
            if chunk.get("error"):
                raise CallFailed(_clean(chunk["error"]["message"]))
            self._take_chunk(chunk, at_s)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CallFailed("an event of the stream is not a chat completion chunk") from None

    def _take_chunk(self, chunk: Any, at_s: float) -> None:
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content")
            if piece and isinstance(piece, str):
                self.pieces.append(piece)
                self.ttft_s = self.ttft_s or at_s
            if choice.get("logprobs"):
                self._take_logprobs(choice["logprobs"]["content"])
        if chunk.get("usage"):
            # Details are objects; the counts are what an evaluation needs.
            self.usage = {k: v for k, v in chunk["usage"].items() if isinstance(v, int)}

    def _take_logprobs(self, tokens: Any) -> None:
        known = self.logprobs or []
        found = (round(min(float(token["logprob"]), 0.0), 4) for token in tokens)
        self.logprobs = [*known, *found][:_LOGPROBS_MAX]


class Client:
    """Asks an endpoint; `http` has its address and key. `logprobs` asks for the tokens' as well."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        settings: Settings,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        logprobs: bool = False,
    ) -> None:
        self._http = http
        self._settings = settings
        self._sleep = sleep
        self._logprobs = {"logprobs": True} if logprobs else {}

    async def ask(self, model: str, item: Item) -> GradedAnswer:
        """Ask a model a question, and judge the answer.

        Raises:
            CallRefused: no call to this model can succeed.
            EndpointDown: no connection could be made.
        """
        try:
            reply = await self._try(self._render(model, item))
        except Unreachable:
            raise EndpointDown(self._settings.base_url) from None
        except Refused as error:
            raise CallRefused(model, self._settings.base_url, str(error)) from None
        except CallFailed as error:
            return GradedAnswer(item.id, model, error=str(error))
        return await _judge(model, item, reply)

    async def _try(self, body: bytes) -> Reply:
        tried = 0
        while True:
            try:
                return await self._exchange(body)
            except NotNow as error:
                wait_s = error.retry_after_s or _BACKOFF_S * 2**tried
                tried += 1
                if tried >= error.tries:
                    raise
            await self._sleep(min(wait_s, _WAIT_S_MAX))

    async def _exchange(self, body: bytes) -> Reply:
        sent_at = perf_counter()
        headers = {"content-type": "application/json"}
        reply: Reply | None = None
        try:
            async with self._http.stream(
                "POST", "chat/completions", content=body, headers=headers
            ) as response:
                if response.status_code != 200:
                    raise _failure(response, await response.aread())
                reply = _begin(response.headers)
                async for event in read_events(response.aiter_bytes()):
                    reply.take(event, perf_counter() - sent_at)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Unreachable("no connection") from None
        except httpx.HTTPError as error:
            # A kept connection may close before an answer begins; a timeout is not retried.
            again = reply is None and not isinstance(error, httpx.TimeoutException)
            kind = NotNow if again else CallFailed
            raise kind(f"the connection failed ({type(error).__name__})") from None
        if reply.total_s is None:
            raise CallFailed("the stream was cut off")
        return reply

    def _render(self, model: str, item: Item) -> bytes:
        settings = self._settings
        return orjson.dumps(
            {
                "model": model,
                "messages": item.messages,
                "max_tokens": settings.max_tokens,
                "temperature": settings.temperature,
                "seed": settings.seed,
                "stream": True,
                "stream_options": {"include_usage": True},
                **self._logprobs,
            }
        )


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events, each of one line, however the network cuts them.

    Not httpx's `aiter_lines`: it also splits at the line separators that JSON may hold.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


async def _judge(model: str, item: Item, reply: Reply) -> GradedAnswer:
    text = "".join(reply.pieces)
    right, error = None, None
    try:
        # In a thread: a slow pattern must not hold up the clocks of the other calls.
        right = await asyncio.to_thread(item.check.passes, text)
    except CheckBroke as broke:
        error = str(broke)
    return GradedAnswer(
        id=item.id,
        model=model,
        answer=text,
        right=right,
        tier=reply.tier,
        reason=reply.reason,
        score=reply.score,
        ttft_s=reply.ttft_s,
        total_s=reply.total_s,
        usage=reply.usage,
        error=error,
        logprobs=reply.logprobs,
    )


def _begin(headers: httpx.Headers) -> Reply:
    score = _parse_number(headers.get("x-route-score"))
    return Reply(headers.get("x-route-tier"), headers.get("x-route-reason"), score)


def _failure(response: httpx.Response, body: bytes) -> CallFailed:
    reason = f"status {response.status_code}: {_read_message(body)}"
    if response.status_code in _BUSY:
        return NotNow(reason, _parse_number(response.headers.get("retry-after")))
    return (Refused if response.status_code in _REFUSED else CallFailed)(reason)


def _read_message(body: bytes) -> str:
    """The message of an error in OpenAI's format, or else the body."""
    try:
        return _clean(orjson.loads(body)["error"]["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return _clean(body.decode(errors="replace"))


def _clean(text: str) -> str:
    """One short line that is safe to print to a terminal."""
    line = " ".join(text.split())[:_ERROR_TEXT_MAX]
    return "".join(character for character in line if character.isprintable())


def _parse_number(text: str | None) -> float | None:
    """The seconds of Retry-After if it is a number; a date is ignored."""
    return float(text) if text and _PLAIN_NUMBER.fullmatch(text) else None
