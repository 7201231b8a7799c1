"""Calls out of files: prompts, logged or given, and lines of the access log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.core.errors import GatewayError
from serve_app.gateway.wire import PARSERS, detect_endpoint, parse_json
from serve_app.routing.calibration import Sample
from serve_app.routing.scorer import Scorer

LABELS = ("small_score", "large_score")
_PROMPT_KEYS = frozenset({"messages", "prompt", "input"})


class InvalidRecord(Exception):
    """A line cannot be used; says which, and what belongs there."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


@dataclass(frozen=True, slots=True)
class Samples:
    """The calls that have a score, and how many lines have none."""

    scored: Sequence[Sample]
    unscored: int


def load_samples(paths: Sequence[Path], scorer: Scorer) -> Samples:
    """Every line of these JSONL files, scored; empty lines mean nothing.

    A line is a body as clients send it (`prompt`, `messages` or `input`), which is scored here, or
    a line of the access log, whose `score` is taken.

    Raises:
        InvalidRecord: a file or a line cannot be used, or no line has a score.
    """
    samples: list[Sample] = []
    unscored = 0
    for path in paths:
        for number, line in _lines(path):
            try:
                sample = _parse(line, scorer)
            except (GatewayError, ValueError) as error:
                problem = error.message if isinstance(error, GatewayError) else str(error)
                raise InvalidRecord(path, number, problem) from None
            if sample is None:
                unscored += 1
            else:
                samples.append(sample)
    if not samples:
        raise InvalidRecord(paths[0], None, "holds no prompt and no scored call")
    return Samples(samples, unscored)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if content.strip():
                    yield number, content
    except OSError as error:
        raise InvalidRecord(path, None, error.strerror or "cannot be read") from None


def _parse(line: bytes, scorer: Scorer) -> Sample | None:
    """The call of one line, None for a logged one that was not scored."""
    document = parse_json(line)
    if _PROMPT_KEYS & document.keys():
        prompt = PARSERS[detect_endpoint(document)](document)
        return Sample(scorer.score(prompt), *_labels(document))
    if "score" not in document:
        raise ValueError(
            "expected `prompt` or `messages`, or a line of the access log with `score`"
        )
    if document["score"] is None:
        return None
    return Sample(_ratio(document, "score"), *_labels(document))


def _labels(document: Mapping[str, Any]) -> Sequence[float | None]:
    given = [key for key in LABELS if document.get(key) is not None]
    if len(given) == 1:
        raise ValueError(f"has `{given[0]}` alone; expected both of {', '.join(LABELS)}, or none")
    return [_ratio(document, key) for key in given] or [None, None]


def _ratio(document: Mapping[str, Any], key: str) -> float:
    value = document[key]
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"{key}: expected a number from 0 to 1")
