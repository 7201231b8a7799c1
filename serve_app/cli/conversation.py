"""A conversation with an OpenAI-compatible address, and what the router said of each answer."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx
import orjson

ERROR_CHARACTERS_MAX = 500
OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
"""Control characters except line feed and tab, and what changes the direction of writing."""


class ChatFailed(Exception):
    """A question has no complete answer; the message has the reason, fit for a terminal."""


@dataclass(slots=True)
class ChatAnswer:
    """An answer as it comes in. Times are seconds since the question was sent."""

    headers: httpx.Headers = field(default_factory=httpx.Headers)
    text: str = ""
    thoughts: str = ""
    finish_reason: str | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    completion_tokens: int | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """The rate after the first token; None where nothing tells it."""
        if self.first_token_s is None or self.total_s is None or not self.completion_tokens:
            return None
        seconds = self.total_s - self.first_token_s
        return (self.completion_tokens - 1) / seconds if seconds > 0 else None


class Conversation:
    """The turns so far. `http` has the address of the API as its base URL, and the key.

    A question that gets no text at all leaves no turn behind, so it can be asked again.
    """

    def __init__(
        self,
        http: httpx.Client,
        model: str,
        *,
        system: str | None = None,
        output_tokens_max: int | None = None,
    ) -> None:
        self._http = http
        self.model = model
        self.system = system
        self._output_tokens_max = output_tokens_max
        self._turns: list[dict[str, str]] = []
        self.last: ChatAnswer | None = None

    def forget(self) -> None:
        """Begin a new conversation."""
        self._turns.clear()
        self.last = None

    def ask(self, question: str) -> Generator[ChatAnswer]:
        """The growing answer, once for each event of its stream; always the same object.

        Whoever stops iterating must close the iterator, which ends the call at the service.

        Raises:
            ChatFailed: the address gives no answer, or none to its end.
        """
        answer = self.last = ChatAnswer()
        asked = {"role": "user", "content": question}
        try:
            yield from self._stream(answer, [*self._messages(), asked])
        except httpx.HTTPError as error:
            raise ChatFailed(f"{self._http.base_url} broke off: {_explain(error)}") from None
        finally:
            if answer.text:
                self._turns += [asked, {"role": "assistant", "content": answer.text}]

    def _messages(self) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self._turns]

    def _stream(self, answer: ChatAnswer, messages: list[dict[str, str]]) -> Iterator[ChatAnswer]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._output_tokens_max is not None:
            body["max_tokens"] = self._output_tokens_max
        sent_at = perf_counter()
        headers = {"content-type": "application/json"}
        with self._http.stream(
            "POST", "chat/completions", content=orjson.dumps(body), headers=headers
        ) as response:
            if response.status_code != 200:
                raise ChatFailed(_read_refusal(response))
            answer.headers = response.headers
            for event in _read_events(response.iter_bytes()):
                if event == b"[DONE]":
                    break
                _take(answer, event, perf_counter() - sent_at)
                yield answer
        answer.total_s = perf_counter() - sent_at
        if answer.finish_reason is None:
            raise ChatFailed("the stream ended before the answer did")


def _read_events(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The data of server-sent events, each of one line, however the network cuts them."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _take(answer: ChatAnswer, event: bytes, at_s: float) -> None:
    try:
        chunk = orjson.loads(event)
        if chunk.get("error"):
            raise ChatFailed(make_printable(str(chunk["error"]["message"])))
        _take_chunk(answer, chunk, at_s)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ChatFailed("an event of the stream is not a chat completion chunk") from None


def _take_chunk(answer: ChatAnswer, chunk: Any, at_s: float) -> None:
    for choice in chunk.get("choices", ()):
        delta = choice.get("delta", {})
        text = delta.get("content") or ""
        thoughts = delta.get("reasoning") or delta.get("reasoning_content") or ""
        if (text or thoughts) and answer.first_token_s is None:
            answer.first_token_s = at_s
        answer.text += text
        answer.thoughts += thoughts
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    if chunk.get("usage"):
        answer.completion_tokens = int(chunk["usage"]["completion_tokens"])


def _read_refusal(response: httpx.Response) -> str:
    """The status and the message of an error in OpenAI's format, or the start of the body."""
    body = response.read()
    try:
        message = str(orjson.loads(body)["error"]["message"])
    except (KeyError, TypeError, ValueError):
        message = body.decode(errors="replace") or response.reason_phrase
    line = make_printable(" ".join(message.split()))[:ERROR_CHARACTERS_MAX]
    return f"{response.status_code}: {line}"


def _explain(error: httpx.HTTPError) -> str:
    return make_printable(str(error)) or type(error).__name__


def make_printable(text: str) -> str:
    """The text without what a terminal would obey: a model may write escape sequences."""
    return OBEYED.sub("", text)
