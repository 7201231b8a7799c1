"""What became of a call, from all that its client has seen. Pure: no clock, no I/O, no Ray.

Every call asks for a text of its own, so that one byte of another call's answer can be told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

REPEATS = 11
"""Six tokens each: an answer has 66 tokens and a last one that ends it."""


class Ending(StrEnum):
    """How the connection of a call ended, for the client."""

    COMPLETE = "complete"
    """The transport said that this was all."""
    BROKEN = "broken"
    """The connection broke in the midst."""
    UNREACHABLE = "unreachable"
    """There was no connection."""
    LEFT = "left"
    """The client itself closed the connection, as it had meant to."""
    SILENT = "silent"
    """The client's own patience, which is longer than every deadline of the service, has ended."""


class Outcome(StrEnum):
    """The one outcome of a call. The last four are wrong whatever the fault was."""

    ANSWERED = "answered"
    REFUSED = "refused"
    ERROR_EVENT = "error event"
    BROKEN = "broken connection"
    UNREACHABLE = "no connection"
    CANCELLED = "cancelled"
    LOST = "lost"
    TRUNCATED = "truncated"
    MIXED = "mixed"
    UNCLEAR = "unclear"
    """A refusal without an error object."""


WRONG = frozenset({Outcome.LOST, Outcome.TRUNCATED, Outcome.MIXED, Outcome.UNCLEAR})
FAILED = frozenset({Outcome.ERROR_EVENT, Outcome.BROKEN, Outcome.UNREACHABLE})


def expected_text(number: int) -> str:
    """The text that call `number` asks for; each slice of it names the call."""
    return f"{number:05d} " * REPEATS + "."


@dataclass(frozen=True)
class Seen:
    """One call: what its client asked for, and everything that came back."""

    number: int
    stream: bool
    ending: Ending
    started_s: float
    ended_s: float
    status: int | None = None
    request_id: str | None = None
    body: bytes = b""
    model: str = "auto"
    tier: str | None = None
    error: str = ""
    """The error of the client's HTTP library."""

    @property
    def sent_id(self) -> str:
        """The request id that the client chose."""
        return f"call-{self.number}"


@dataclass
class _Answer:
    """The parts of an answer, streamed or whole."""

    text: str = ""
    finish: str | None = None
    has_usage: bool = False
    has_error: bool = False
    is_done: bool = False

    def take(self, document: dict[str, Any]) -> None:
        """Add an event, or the whole answer."""
        self.has_error |= isinstance(document.get("error"), dict)
        self.has_usage |= bool((document.get("usage") or {}).get("completion_tokens"))
        for choice in document.get("choices", []):
            said = choice.get("delta") or choice.get("message") or {}
            self.text += said.get("content") or ""
            self.finish = choice.get("finish_reason") or self.finish


def judge(seen: Seen) -> Outcome:
    """The outcome of a call."""
    if seen.status is not None and seen.request_id not in (None, seen.sent_id):
        return Outcome.MIXED
    if seen.status == 200:
        return _judge_answer(seen, read_answer(seen))
    if seen.ending in _ENDINGS:
        return _ENDINGS[seen.ending]
    return Outcome.REFUSED if _has_error_object(seen.body) else Outcome.UNCLEAR


_ENDINGS = {
    Ending.BROKEN: Outcome.BROKEN,
    Ending.UNREACHABLE: Outcome.UNREACHABLE,
    Ending.LEFT: Outcome.CANCELLED,
    Ending.SILENT: Outcome.LOST,
}


def _judge_answer(seen: Seen, answer: _Answer) -> Outcome:
    expected = expected_text(seen.number)
    if not expected.startswith(answer.text):
        return Outcome.MIXED
    if answer.has_error:
        return Outcome.ERROR_EVENT
    whole = answer.text == expected and answer.finish == "stop" and answer.has_usage
    if whole and answer.is_done:
        return Outcome.ANSWERED
    if seen.ending in _ENDINGS:
        return _ENDINGS[seen.ending]
    return Outcome.TRUNCATED


def read_answer(seen: Seen) -> _Answer:
    """The parts of a 200; of a whole answer that broke off, nothing can be read."""
    return _read_stream(seen.body) if seen.stream else _read_whole(seen.body)


def _read_whole(body: bytes) -> _Answer:
    answer = _Answer()
    document = _parse(body)
    if document is None:
        return answer
    answer.is_done = True
    answer.take(document)
    return answer


def _read_stream(body: bytes) -> _Answer:
    answer = _Answer()
    *events, _unfinished = body.split(b"\n\n")
    for event in events:
        data = event.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            answer.is_done = True
        elif (document := _parse(data)) is not None:
            answer.take(document)
    return answer


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _has_error_object(body: bytes) -> bool:
    error = (_parse(body) or {}).get("error")
    return isinstance(error, dict) and bool(error.get("message"))
