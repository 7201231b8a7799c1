"""Read labelled lines: the questions and their right answers. See docs/evaluate.md."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from serve_app.offline.evaluate.checks import Check, InvalidCheck, parse_check
from serve_app.offline.evaluate.evaluation_errors import InvalidDataset

_KEYS = ("id", "messages", "prompt", "check", "tags")

Message = Mapping[str, object]


class InvalidLine(ValueError):
    """A line cannot be used; the message names the key and the expected value."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"{key}: expected {expected}")


@dataclass(frozen=True, slots=True)
class Item:
    """One question; `messages` go into the call as they are."""

    id: str
    messages: Sequence[Message]
    check: Check
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The questions of a file; `sha256` is the sum of the file."""

    name: str
    sha256: str
    items: Sequence[Item]

    def choose(self, limit: int | None, seed: int) -> Dataset:
        """At most this many questions, drawn at random; a higher limit includes a lower limit's
        questions."""
        drawn = list(self.items)
        random.Random(seed).shuffle(drawn)
        chosen = {item.id for item in drawn[:limit]}
        return Dataset(self.name, self.sha256, [item for item in self.items if item.id in chosen])


def read_dataset(path: Path) -> Dataset:
    """Read every line of a JSONL file; empty lines are skipped.

    Raises:
        InvalidDataset: the file cannot be read, or a line cannot be used.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidDataset(path, None, error.strerror or "cannot be read") from None
    items: dict[str, Item] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            item = _parse_numbered(path, number, line)
            if item.id in items:
                raise InvalidDataset(path, number, f"the id '{item.id}' exists already")
            items[item.id] = item
    if not items:
        raise InvalidDataset(path, None, "has no question")
    return Dataset(path.stem, hashlib.sha256(content).hexdigest(), list(items.values()))


def parse_item(line: bytes) -> Item:
    """One labelled line.

    Raises:
        InvalidLine: it cannot be used.
        InvalidCheck: its check cannot.
    """
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidLine("the line", f"JSON ({error})") from None
    if not isinstance(document, dict):
        raise InvalidLine("the line", "an object")
    for key in document.keys() - set(_KEYS):
        raise InvalidLine(key, f"no such key; the keys are {', '.join(_KEYS)}")
    return Item(
        id=_parse_id(document),
        messages=_parse_messages(document),
        check=parse_check(document.get("check")),
        tags=_parse_tags(document.get("tags", {})),
    )


def _parse_numbered(path: Path, number: int, line: bytes) -> Item:
    try:
        return parse_item(line)
    except (InvalidLine, InvalidCheck) as error:
        raise InvalidDataset(path, number, str(error)) from None


def _parse_id(document: Mapping[str, object]) -> str:
    """The given id, or an id computed from the content, wherever the line is."""
    if "id" not in document:
        content = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()[:16]
    given = document["id"]
    if not isinstance(given, str) or not given:
        raise InvalidLine("id", "a string")
    return given


def _parse_messages(document: Mapping[str, object]) -> Sequence[Message]:
    if ("messages" in document) == ("prompt" in document):
        raise InvalidLine("messages", "either `messages` or `prompt`")
    if "prompt" in document:
        if not isinstance(document["prompt"], str):
            raise InvalidLine("prompt", "a string")
        return [{"role": "user", "content": document["prompt"]}]
    messages = document["messages"]
    if not isinstance(messages, list) or not messages:
        raise InvalidLine("messages", "a list of messages")
    for index, message in enumerate(messages):
        # The endpoint itself checks the other fields of a message.
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidLine(f"messages[{index}]", "an object with `role` and `content`")
    return messages


def _parse_tags(tags: object) -> Mapping[str, str]:
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise InvalidLine("tags", "an object of strings")
    return tags
