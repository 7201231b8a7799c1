"""The texts of a call for its record: taken out of the answer's bytes, and redacted.

A pattern cannot match a text that is split over the events of a stream, so the pieces of a stream
are joined first. Bytes that are not understood are left out, because nothing could redact them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from serve_app.core.content import Content
from serve_app.core.redact import RedactionFailed, Redactor

TEXT_KEYS = frozenset(
    {
        "content", "text", "reasoning_content", "reasoning", "thinking", "refusal",
        "delta", "arguments", "partial_json", "name", "message",
    }
)  # fmt: skip
"""The keys whose strings a model wrote, in all four dialects; `message` is an error's."""
SKIPPED_KEYS = frozenset(
    {"tools", "tool_choice", "metadata", "logprobs", "usage", "instructions", "input_messages"}
)
"""The keys of an answer that repeat the request, or hold no text."""
TOOL_INPUT = "input"
PLACE_KEYS = ("index", "output_index", "content_index")
REPEATED = "response."
"""The start of the type of Responses events. Those that do not end in `.delta` repeat texts."""

TOO_LONG = "it is too long"

Part = tuple[str, str]
"""A text's place in the answer, and the text."""


def render_texts(content: Content, redactor: Redactor) -> dict[str, Any]:
    """The redacted texts; or why a text is left out."""
    prompt, answer = content.prompt or (), _read_answer(content)
    try:
        redacted = redactor.redact([text for _, text in (*prompt, *(answer or ()))])
    except RedactionFailed:
        return {"texts_left_out": "they could not be redacted in time"}
    fields: dict[str, Any] = {}
    if content.prompt is not None:
        pairs = zip(prompt, redacted, strict=False)
        fields["prompt"] = [{"role": role, "text": text} for (role, _), text in pairs]
    if content.prompt_too_long:
        fields["prompt_left_out"] = TOO_LONG
    if answer is not None:
        pairs = zip(answer, redacted[len(prompt) :], strict=True)
        fields["answer"] = [{"part": part, "text": text} for (part, _), text in pairs]
    elif content.answer_chars_max:
        fields["answer_left_out"] = TOO_LONG
    return fields


def _read_answer(content: Content) -> list[Part] | None:
    """None where the answer is not kept, or is too long."""
    body = content.body()
    if body is None or not content.answer_chars_max:
        return None
    parts = list(read_parts(body))
    fits = sum(len(text) for _, text in parts) <= content.answer_chars_max
    return parts if fits else None


def read_parts(body: bytes) -> Iterator[Part]:
    """The texts of an answer in one piece, of a stream or of the beginning of one; each with its
    place in the answer, for example `0.content`."""
    parts: dict[str, list[str]] = {}
    for document in _documents(body):
        for place, text in _walk(document, ""):
            parts.setdefault(place, []).append(text)
    for place, pieces in parts.items():
        if text := "".join(pieces):
            yield place, text


def _documents(body: bytes) -> Iterator[Any]:
    whole = _parse(body)
    if whole is not None:
        yield whole
        return
    for line in body.split(b"\n"):
        if line.startswith(b"data:"):
            document = _parse(line[5:].strip())
            if isinstance(document, dict) and not _repeats(document):
                yield document


def _repeats(event: dict[str, Any]) -> bool:
    kind = event.get("type")
    return isinstance(kind, str) and kind.startswith(REPEATED) and not kind.endswith(".delta")


def _parse(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _walk(value: Any, place: str) -> Iterator[Part]:
    if isinstance(value, dict):
        yield from _walk_object(value, place)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            known = isinstance(item, dict) and "index" in item
            yield from _walk(item, place if known else f"{place}{number}.")


def _walk_object(value: dict[str, Any], place: str) -> Iterator[Part]:
    for key in PLACE_KEYS:
        if isinstance(value.get(key), int):
            place += f"{value[key]}."
    for key, item in value.items():
        if key in SKIPPED_KEYS:
            continue
        if isinstance(item, str):
            if key in TEXT_KEYS:
                yield place + key, item
        elif key == TOOL_INPUT and isinstance(item, dict) and item:
            yield place + key, orjson.dumps(item).decode()
        elif isinstance(item, dict | list):
            yield from _walk(item, place)
