"""The answers of an evaluation on disk, one JSON line each, so that it can be continued."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from serve_app.offline.evaluate.evaluation_errors import OtherEvaluation

ANSWERS_FILE = "answers.jsonl"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that make two evaluations comparable; other settings give other answers."""

    dataset_sha256: str
    base_url: str
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One call and its result; a line of the file.

    `right` is None if it is not known; `error` then has the reason. `tier`, `reason` and `score`
    are the Router's decision, if the endpoint reports it. `logprobs` are the log-probabilities of
    the first tokens, if they were requested.
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
    """The answers so far; each new answer is on disk before the next call is made."""

    def __init__(self, answers: Sequence[GradedAnswer], file: BinaryIO) -> None:
        self.answers = list(answers)
        self._file = file

    def add(self, answer: GradedAnswer) -> None:
        """Keep an answer."""
        self.answers.append(answer)
        self._file.write(_render(answer))
        self._file.flush()


@contextmanager
def open_answers(directory: Path, settings: Settings) -> Iterator[AnswerLog]:
    """Open the answers of a directory, which is created if it is missing.

    Failed calls and an incomplete last line are removed, so that these calls are repeated.

    Raises:
        OtherEvaluation: the directory's answers have other settings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ANSWERS_FILE
    _check_settings(directory, settings)
    answers = [answer for answer in _read(path) if answer.error is None]
    _replace(path, b"".join(map(_render, answers)))
    with path.open("ab") as file:
        yield AnswerLog(answers, file)


def read_answers(directory: Path) -> Sequence[GradedAnswer]:
    """The answers of a directory, which stays as it is.

    Raises:
        OtherEvaluation: they cannot be read.
    """
    if not (directory / ANSWERS_FILE).is_file():
        raise OtherEvaluation(directory, f"it has no {ANSWERS_FILE}")
    return list(_read(directory / ANSWERS_FILE))


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
    # The text after the last line end is empty, or half a line.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            yield GradedAnswer(**orjson.loads(line))
        except (TypeError, ValueError):
            raise OtherEvaluation(
                path.parent, f"line {number} of {path.name} is not an answer"
            ) from None


def _render(answer: GradedAnswer) -> bytes:
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)


def _replace(path: Path, content: bytes) -> None:
    """Write the file so that an interruption leaves the old file or the new file, never a part."""
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(content)
    os.replace(scratch, path)
