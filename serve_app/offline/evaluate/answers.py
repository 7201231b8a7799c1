"""The answers of an evaluation on disk, one JSON line each, so that an interrupted one goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from serve_app.offline.evaluate.errors import OtherEvaluation

ANSWERS_FILE = "answers.jsonl"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes two evaluations comparable: answers under other settings are other answers."""

    dataset_sha256: str
    base_url: str
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One call and what came of it; a line of the file.

    `right` is None where it is unknown, and `error` then says why. `tier`, `reason` and `score` are
    the Router's decision, where the endpoint tells it. `logprobs` are those of the first tokens,
    where they were asked for.
    """

    id: str
    model: str
    answer: str | None = None
    right: bool | None = None
    tier: str | None = None
    reason: str | None = None
    score: float | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    usage: Mapping[str, int] | None = None
    error: str | None = None
    logprobs: Sequence[float] | None = None


class AnswerLog:
    """The answers so far; each new one is on disk before the next call is made."""

    def __init__(self, answers: Sequence[GradedAnswer], file: BinaryIO) -> None:
        self.answers = list(answers)
        self._file = file

    def add(self, answer: GradedAnswer) -> None:
        """Keeps an answer."""
        self.answers.append(answer)
        self._file.write(_render(answer))
        self._file.flush()


@contextmanager
def open_answers(directory: Path, settings: Settings) -> Iterator[AnswerLog]:
    """The directory's answers, which is made where it is missing.

    Calls that failed are forgotten, so that they are made again, and so is half a last line.

    Raises:
        OtherEvaluation: its answers are not those of these settings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ANSWERS_FILE
    _check_settings(directory, settings)
    answers = [answer for answer in _read(path) if answer.error is None]
    _replace(path, b"".join(map(_render, answers)))
    with path.open("ab") as file:
        yield AnswerLog(answers, file)


def _check_settings(directory: Path, settings: Settings) -> None:
    ours, path = asdict(settings), directory / SETTINGS_FILE
    if not path.exists():
        if (directory / ANSWERS_FILE).exists():
            raise OtherEvaluation(directory, f"it has no {SETTINGS_FILE}")
        _replace(path, orjson.dumps(ours, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    try:
        theirs = dict(orjson.loads(path.read_bytes()))
    except (TypeError, ValueError):
        raise OtherEvaluation(directory, f"its {SETTINGS_FILE} cannot be read") from None
    differing = [key for key, value in ours.items() if theirs.get(key) != value]
    if differing:
        told = (f"{key} is {theirs.get(key)} there and {ours[key]} here" for key in differing)
        raise OtherEvaluation(directory, "; ".join(told))


def _read(path: Path) -> Iterator[GradedAnswer]:
    if not path.exists():
        return
    # What stands behind the last line end is nothing, or half a line.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            yield GradedAnswer(**orjson.loads(line))
        except (TypeError, ValueError):
            raise OtherEvaluation(
                path.parent, f"line {number} of {path.name} is no answer"
            ) from None


def _render(answer: GradedAnswer) -> bytes:
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)


def _replace(path: Path, content: bytes) -> None:
    """An interruption leaves the old file or the new one, never half of one."""
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(content)
    os.replace(scratch, path)
