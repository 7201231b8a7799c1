"""The canonical text of a prompt, whose beginnings are what calls can share in a prefix cache.

The text has whatever comes before the messages first, then each message by itself, so that a
conversation only appends to it. It leaves out what a client changes from turn to turn without an
effect on the prompt: Anthropic's `cache_control`, the form of a content with a single text, and
earlier thoughts, which templates leave out. It needs no more than that: a text that differs from
the engine's prompt costs a prediction, never an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import orjson

from serve_app.core.prefix import NO_KEYS, PrefixKeys, prefix_keys

Json = dict[str, Any]

HEAD_KEYS = (
    "cache_salt", "documents", "chat_template_kwargs", "reasoning_effort", "previous_response_id",
)  # fmt: skip
"""The fields before the messages: they part caches, or shape the beginning of the prompt."""
CALL_KEYS = ("tool_calls", "tool_call_id", "name")
ITEM_KEYS = ("type", "name", "arguments", "input", "call_id", "output")
THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})

MEDIA_KEYS = frozenset({"url", "data", "image_url", "video_url", "audio_url", "file_data"})
MEDIA_BYTES_MIN = 512
"""A longer string under these keys is a picture or a sound, and enters as its digest."""
MEDIA_DIGEST_BYTES = 32
MEDIA_REPEATS = 128
"""A digest stands for about 1,000 tokens, as a picture of a megapixel has (`core/tokens.py`)."""

_NOT_WRITTEN = "cache_control"


def read_prefix_keys(document: Json) -> PrefixKeys:
    """The keys of a body in any dialect; no keys where its prompt cannot be written as text."""
    try:
        return prefix_keys(_parts(document))
    except (TypeError, ValueError, RecursionError):
        return NO_KEYS


def _parts(document: Json) -> Iterator[bytes]:
    for key in HEAD_KEYS:
        value = document.get(key)
        if value:
            yield b"%b=%b\n" % (key.encode(), _dump(value))
    for tool in document.get("tools") or ():
        yield _dump(_unmarked(tool))
    for key in ("system", "instructions"):
        value = document.get(key)
        if value:
            yield from _message("system", value)
    prompt = document.get("prompt")
    if prompt is not None and "messages" not in document:
        yield _first_prompt(prompt)
        return
    turns = document.get("messages") or document.get("input") or ()
    yield from _message("user", turns) if isinstance(turns, str) else _turns(turns)


def _turns(turns: Any) -> Iterator[bytes]:
    for turn in turns:
        if not isinstance(turn, dict):
            yield _dump(turn)
            continue
        role = turn.get("role")
        if role is None or turn.get("content") is None:
            yield from _item(turn)
        else:
            yield from _message(role, turn["content"])
        if "tool_calls" in turn or role == "tool":
            yield _dump([turn.get(key) for key in CALL_KEYS])


def _message(role: str, content: object) -> Iterator[bytes]:
    yield b"\x1e%b\x1f" % role.encode()
    if isinstance(content, str):
        yield content.encode("utf-8", "surrogatepass")
    elif isinstance(content, list):
        for part in content:
            yield _part(part)
    else:
        yield _part(content)


def _item(item: Json) -> Iterator[bytes]:
    """A message without content, or an item of a Responses input: a tool call or its result."""
    if item.get("type") in THOUGHTS:
        return
    role = item.get("role") or "item"
    found = {key: item[key] for key in ITEM_KEYS if key in item}
    yield b"\x1e%b\x1f%b" % (role.encode(), _dump(_strip(found)))


def _part(part: object) -> bytes:
    """One part of a content: a text as it is, everything else as JSON."""
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")
    if not isinstance(part, dict):
        return _dump(part)
    text = part.get("text")
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if part.get("type") in THOUGHTS:
        return b""
    return _dump(_strip(part))


def _unmarked(tool: object) -> object:
    """A tool without its mark for caches, which clients move from tool to tool."""
    if not isinstance(tool, dict) or _NOT_WRITTEN not in tool:
        return tool
    return {key: value for key, value in tool.items() if key != _NOT_WRITTEN}


def _strip(value: object) -> object:
    """A value without marks for caches, and with digests in the place of media."""
    if isinstance(value, dict):
        return {key: _strip_field(value, key) for key in value if key != _NOT_WRITTEN}
    if isinstance(value, list):
        return [_strip(item) for item in value]
    return value


def _strip_field(value: Json, key: str) -> object:
    found = value[key]
    if isinstance(found, str) and key in MEDIA_KEYS and len(found) >= MEDIA_BYTES_MIN:
        return digest_media(found)
    return _strip(found)


def digest_media(data: str) -> str:
    """What stands for a picture or a sound: as long as the tokens that it takes."""
    digest = blake2b(data.encode("utf-8", "surrogatepass"), digest_size=MEDIA_DIGEST_BYTES // 2)
    return digest.hexdigest() * MEDIA_REPEATS


def _first_prompt(prompt: object) -> bytes:
    """The text or the token ids of a completion's prompt, or of the first of several."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    return prompt.encode("utf-8", "surrogatepass") if isinstance(prompt, str) else _dump(prompt)


def _dump(value: object) -> bytes:
    return orjson.dumps(value)
