"""Extracts a model's text from the bytes of its answer: four dialects, whole or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from serve_app.core.call import Endpoint

Json = dict[str, Any]


class _NotText(Exception):
    """The answer calls a tool, has failed, or has an unknown form."""


def answer_text(endpoint: Endpoint, body: bytes) -> str | None:
    """The text of a complete answer of a generation endpoint, whole JSON or server-sent events.

    None where the answer is not text: a tool's call, an error, an unknown form, or empty.
    """
    try:
        document = _parse(body)
        if document is not None:
            text = _WHOLE[endpoint](document)
        else:
            text = "".join(_EVENT[endpoint](event) for event in _events(body))
    except (_NotText, KeyError, IndexError, TypeError, AttributeError):
        return None
    return text if text.strip() else None


def count_tokens(body: bytes) -> int:
    """The tokens of prompt and answer that an engine's answer in one piece tells; 0 if none."""
    try:
        document = orjson.loads(body)
        usage = document["usage"]
        total = usage.get("total_tokens")
        tokens = usage["input_tokens"] + usage["output_tokens"] if total is None else total
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return 0
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def _parse(body: bytes) -> Json | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or document.get("error") is not None:
        raise _NotText
    return document


def _events(body: bytes) -> Iterator[Json]:
    for line in body.splitlines():
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = _parse(data)
        if event is None:
            raise _NotText
        yield event


def _text(value: object) -> str:
    """A piece of text; null counts as no text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _NotText
    return value


def _chat_whole(document: Json) -> str:
    return _chat_message(document["choices"][0]["message"])


def _chat_event(event: Json) -> str:
    return "".join(
        _chat_message(choice["delta"]) for choice in event["choices"] if choice["index"] == 0
    )


def _chat_message(message: Json) -> str:
    if message.get("tool_calls"):
        raise _NotText
    return _text(message.get("content"))


def _completions_whole(document: Json) -> str:
    return _text(document["choices"][0]["text"])


def _completions_event(event: Json) -> str:
    return "".join(_text(choice["text"]) for choice in event["choices"] if choice["index"] == 0)


def _responses_whole(document: Json) -> str:
    if document.get("status") not in ("completed", "incomplete"):
        raise _NotText
    texts: list[str] = []
    for item in document["output"]:
        if item["type"] == "message":
            parts = item["content"]
            texts += [_text(part["text"]) for part in parts if part["type"] == "output_text"]
        elif item["type"] != "reasoning":
            raise _NotText
    return "".join(texts)


def _responses_event(event: Json) -> str:
    if event["type"] in ("error", "response.failed"):
        raise _NotText
    return _text(event["delta"]) if event["type"] == "response.output_text.delta" else ""


def _messages_whole(document: Json) -> str:
    if any(part["type"] == "tool_use" for part in document["content"]):
        raise _NotText
    return "".join(_text(part["text"]) for part in document["content"] if part["type"] == "text")


def _messages_event(event: Json) -> str:
    if event["type"] == "error":
        raise _NotText
    if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
        raise _NotText
    if event["type"] != "content_block_delta" or event["delta"]["type"] != "text_delta":
        return ""
    return _text(event["delta"]["text"])


_WHOLE: Mapping[Endpoint, Callable[[Json], str]] = {
    Endpoint.CHAT: _chat_whole,
    Endpoint.COMPLETIONS: _completions_whole,
    Endpoint.RESPONSES: _responses_whole,
    Endpoint.MESSAGES: _messages_whole,
}
_EVENT: Mapping[Endpoint, Callable[[Json], str]] = {
    Endpoint.CHAT: _chat_event,
    Endpoint.COMPLETIONS: _completions_event,
    Endpoint.RESPONSES: _responses_event,
    Endpoint.MESSAGES: _messages_event,
}
