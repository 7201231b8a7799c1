"""The calls of a feedback log as rows that a lesson may be made of: question, answers, verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from serve_app.offline.distill.distill_errors import InvalidLog
from serve_app.offline.distill.training_set import Message
from serve_app.offline.learning.feedback_log import (
    FeedbackLog,
    InvalidEntry,
    find_logs,
    is_entry,
    is_log,
)

CONSENT_GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Row:
    """A call of the log.

    `consented`: the client itself said yes. `answer` is the strong tier's, None where the log does
    not keep it, and `source` says where it is from. `strong` and `small` say how right the two
    answers are, 0 to 1, None where neither a comparison nor an application has said so.
    """

    conversation: tuple[Message, ...]
    consented: bool
    answer: str | None
    source: str
    strong: float | None
    small: float | None


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of the log, as it was read."""

    name: str
    sha256: str
    lines: int


@dataclass(frozen=True, slots=True)
class Log:
    """Every call of a log; `ambiguous` counts request ids of several calls, which are left out, and
    of feedback on none."""

    rows: Sequence[Row]
    files: Sequence[LogFile]
    ambiguous: int


def read_log(paths: Sequence[Path]) -> Log:
    """The calls of all files; a directory stands for the feedback log in it.

    Raises:
        InvalidLog: there is no such file, or a line cannot be used.
    """
    log, files = FeedbackLog(), list[LogFile]()
    for path in chain.from_iterable(map(_find_files, paths)):
        content = _read(path)
        lines = list(_parse_lines(path, content))
        for number, entry in lines:
            try:
                log.add(entry)
            except InvalidEntry as error:
                raise InvalidLog(path, number, str(error)) from None
        files.append(LogFile(path.name, hashlib.sha256(content).hexdigest(), len(lines)))
    joined = log.join()
    return Log([to_row(call) for call in joined.calls], files, joined.skipped)


def to_row(call: Mapping[str, Any]) -> Row:
    """A joined call of the log."""
    by_strong = bool(call.get("answered_by_large"))
    key = "answer" if by_strong else "other_answer"
    answer = call.get(key)
    strong, small = call.get("large_score"), call.get("small_score")
    if strong is None and by_strong and "reported" in call:
        strong = float(call["reported"])
    return Row(
        conversation=tuple(Message(turn["role"], turn["content"]) for turn in call["messages"]),
        consented=call.get("consent") == CONSENT_GIVEN,
        answer=answer if isinstance(answer, str) else None,
        source="answered the client" if by_strong else "asked for the label",
        strong=None if strong is None else float(strong),
        small=None if small is None else float(small),
    )


def _find_files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    found = find_logs(path)
    if not found:
        raise InvalidLog(path, None, "expected calls_*.jsonl, the files of a feedback log")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidLog(path, None, error.strerror or "cannot be read") from None


def _parse_lines(path: Path, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if is_log(path) and number == len(lines):
                return  # A Router was killed while it wrote the line.
            raise InvalidLog(path, number, f"the line: expected JSON ({error})") from None
        if not isinstance(document, dict) or not is_entry(document):
            expected = "`kind` (call, label or feedback) and `request_id`, as a Router writes them"
            raise InvalidLog(path, number, f"the line: expected an object with {expected}")
        yield number, document
