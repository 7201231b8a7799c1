"""Metrics of sampled calls, and of applications' feedback on answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeVar

from ray.serve.metrics import Counter

Fate = TypeVar("Fate", bound=StrEnum)


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
