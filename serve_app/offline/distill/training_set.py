"""The training set on disk: chat JSONL as OpenAI's fine-tuning has it, in a directory with a
card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from serve_app.offline.distill.distill_errors import InvalidTrainingSet

TRAIN_FILE = "train.jsonl"
VALIDATION_FILE = "validation.jsonl"

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation, and the answer that is to be learnt."""

    conversation: tuple[Message, ...]
    answer: str


def render_lesson(lesson: Lesson) -> bytes:
    """A line of the training set."""
    turns = [*lesson.conversation, Message("assistant", lesson.answer)]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return orjson.dumps({"messages": messages}, option=orjson.OPT_APPEND_NEWLINE)


def read_lessons(path: Path) -> Sequence[Lesson]:
    """Every line of a file; empty lines are skipped.

    Raises:
        InvalidTrainingSet: the file cannot be read, has no lesson, or a line cannot be used.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"{error.strerror or 'cannot be read'}; `serve-app distill data` writes it"
        raise InvalidTrainingSet(path, None, problem) from None
    lessons = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                lessons.append(parse_lesson(line))
            except ValueError as error:
                raise InvalidTrainingSet(path, number, str(error)) from None
    return lessons


def parse_lesson(line: bytes) -> Lesson:
    """One line of the training set.

    Raises:
        ValueError: it cannot be used; the message names the key and the expected value.
    """
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the line: expected JSON ({error})") from None
    found = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(found, list) or len(found) < 2:
        raise ValueError("messages: expected a list of at least two messages")
    *conversation, last = [_parse_message(index, one) for index, one in enumerate(found)]
    if last.role != "assistant" or not last.content.strip():
        raise ValueError("messages: expected an answer of the role `assistant` at the end")
    return Lesson(tuple(conversation), last.content)


def _parse_message(index: int, message: object) -> Message:
    fields = message if isinstance(message, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise ValueError(f"messages[{index}].role: expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"messages[{index}].content: expected a string")
    return Message(str(role), content)
