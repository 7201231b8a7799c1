"""Metrics of sampled calls, and of applications' feedback on answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol, TypeVar

from ray.serve.metrics import Counter

Fate = TypeVar("Fate", bound=StrEnum)


class LabelledAnswer(Protocol):
    """A tier's answer with a label; see `feedback/tally.py`."""

    @property
    def tier(self) -> str: ...
    @property
    def right(self) -> bool: ...
    @property
    def band(self) -> int | None: ...


class FeedbackMetrics:
    """Reads the counts about once a second; every label comes from a closed set."""

    def __init__(self, take: Callable[[], tuple[Mapping[Fate, int], Mapping[bool, int]]]) -> None:
        """`take` returns the counts of samples' events, and of right and wrong verdicts."""
        self._take = take
        self._samples = Counter(
            "serve_app_feedback_samples",
            "Calls drawn for a label, by result.",
            ("fate",),
        )
        self._verdicts = Counter(
            "serve_app_feedback_verdicts", "Feedback of applications on answers.", ("right",)
        )

    def flush(self) -> None:
        """Hand the counts to Ray."""
        fates, verdicts = self._take()
        for fate, count in fates.items():
            self._samples.inc(count, {"fate": fate.value})
        for right, count in verdicts.items():
            self._verdicts.inc(count, {"right": str(right).lower()})


Answer = TypeVar("Answer", bound=LabelledAnswer)


class QualityMetrics:
    """Reads the labelled answers about once a second."""

    def __init__(self, take: Callable[[], Mapping[Answer, int]]) -> None:
        """`take` returns the counts of labelled answers."""
        self._take = take
        self._answers = Counter(
            "serve_app_labelled_answers",
            "Answers of labelled calls, by tier, label and tenth of the complexity scores.",
            ("tier", "right", "band"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )

    def flush(self) -> None:
        """Hand the counts to Ray."""
        for judged, count in self._take().items():
            tags = {"tier": judged.tier, "right": str(judged.right).lower(), "band": _band(judged)}
            self._answers.inc(count, tags)


def _band(judged: LabelledAnswer) -> str:
    return "none" if judged.band is None else f"0.{judged.band}"
