"""Calls from files: prompts, and lines of the access log and the feedback log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Prompt
from serve_app.core.errors import GatewayError
from serve_app.core.tokens import estimate_tokens
from serve_app.gateway.prefix_text import read_prefix_keys
from serve_app.gateway.prompts import detect_endpoint, read_prompt
from serve_app.gateway.wire import parse_json
from serve_app.offline.learning.feedback_log import FeedbackLog, find_logs, is_entry
from serve_app.offline.learning.learnt import Filter, list_learnt
from serve_app.routing.calibration import ScoredCall
from serve_app.routing.scorer import Scorer

LABELS = ("small_score", "large_score")
_PROMPT_KEYS = frozenset({"messages", "prompt", "input"})


class InvalidRecord(Exception):
    """A line cannot be used; the message says which line, and what belongs there."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


@dataclass(frozen=True, slots=True)
class Samples:
    """The scored calls, and the numbers of lines and calls that were left out.

    `unlabelled` counts calls of a feedback log without a label, if other calls have labels.
    `learnt` counts labelled calls that the scorer has learnt from, whose scores would flatter it.
    `prompt_tokens` and `output_tokens` are means over the logged calls that have both counts.
    """

    scored: Sequence[ScoredCall]
    unscored: int
    unlabelled: int = 0
    learnt: int = 0
    prompt_tokens: float | None = None
    output_tokens: float | None = None


class _Judge:
    """Scores calls, and leaves out labelled calls that the scorer has learnt from."""

    def __init__(self, scorer: Scorer, learnt: Filter | None) -> None:
        self._scorer, self._learnt = scorer, learnt
        self.left_out = 0

    def score(self, document: Mapping[str, Any]) -> ScoredCall | None:
        """None for a call that is left out."""
        body, labels = dict(document), _labels(document)
        prompt = read_prompt(detect_endpoint(body), body, BodiesConfig())
        if labels[0] is not None and self._knows(prompt):
            self.left_out += 1
            return None
        small, large = labels
        tokens = estimate_tokens(prompt)
        return ScoredCall(self._scorer.score(prompt), small, large, read_prefix_keys(body), tokens)

    def _knows(self, prompt: Prompt) -> bool:
        return self._learnt is not None and bool(list_learnt([prompt], self._learnt)[0])


def read_samples(paths: Sequence[Path], scorer: Scorer, learnt: Filter | None = None) -> Samples:
    """Score every line of these JSONL files; empty lines are skipped.

    A line is either a body as clients send it (`prompt`, `messages` or `input`), which is scored
    here, or a line of the access log, whose `score` is used. A call of a feedback log is also
    scored here. A directory stands for the logs in it. Labelled calls in the filter `learnt` are
    left out.

    Raises:
        InvalidRecord: a file or a line cannot be used, or no line has a score.
    """
    samples: list[ScoredCall] = []
    unscored = 0
    judge = _Judge(scorer, learnt)
    log, tokens = FeedbackLog(), list[tuple[int, int]]()
    for path in chain.from_iterable(map(_find_files, paths)):
        for number, line in _lines(path):
            try:
                document = parse_json(line)
                if is_entry(document):
                    log.add(document)
                    continue
                sample, scored = _parse(document, judge)
            except (GatewayError, ValueError) as error:
                problem = error.message if isinstance(error, GatewayError) else str(error)
                raise InvalidRecord(path, number, problem) from None
            unscored += not scored
            if sample is not None:
                samples.append(sample)
                tokens += _tokens(document)
    calls = [judge.score(call) for call in log.join().calls]
    logged = [call for call in calls if call is not None]
    labelled = [sample for sample in logged if sample.small is not None]
    samples += labelled or logged
    if not samples and judge.left_out:
        raise InvalidRecord(paths[0], None, "holds only calls that the weights have learnt from")
    if not samples:
        raise InvalidRecord(paths[0], None, "has no prompt and no scored call")
    unlabelled = len(logged) - len(labelled) if labelled else 0
    means = (sum(counts) / len(counts) for counts in zip(*tokens, strict=True))
    return Samples(samples, unscored, unlabelled, judge.left_out, *means)


def _find_files(path: Path) -> Sequence[Path]:
    return (find_logs(path) or [path]) if path.is_dir() else [path]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if content.strip():
                    yield number, content
    except OSError as error:
        raise InvalidRecord(path, None, error.strerror or "cannot be read") from None


def _parse(document: Mapping[str, Any], judge: _Judge) -> tuple[ScoredCall | None, bool]:
    """The call of one line, None if it is left out or not scored; and whether it is scored."""
    if _PROMPT_KEYS & document.keys():
        return judge.score(document), True
    if "score" not in document:
        raise ValueError(
            "expected `prompt` or `messages`, or a line of the access log with `score`"
        )
    if document["score"] is None:
        return None, False
    small, large = _labels(document)
    return ScoredCall(_ratio(document, "score"), small, large), True


def _tokens(document: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """The tokens of a logged call, if its line has both counts."""
    counts = document.get("prompt_tokens"), document.get("completion_tokens")
    if isinstance(counts[0], int) and isinstance(counts[1], int):
        yield counts[0], counts[1]


def _labels(document: Mapping[str, Any]) -> Sequence[float | None]:
    given = [key for key in LABELS if document.get(key) is not None]
    if len(given) == 1:
        raise ValueError(f"has only `{given[0]}`; expected both or none of {', '.join(LABELS)}")
    return [_ratio(document, key) for key in given] or [None, None]


def _ratio(document: Mapping[str, Any], key: str) -> float:
    value = document[key]
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"{key}: expected a number from 0 to 1")
