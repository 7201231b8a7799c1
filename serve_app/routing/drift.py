"""Whether the newest scores are distributed as before: the population stability index."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise

BINS = 10
DRIFT_BEGINS = 0.25
"""The customary limits of the index: below 0.1 nothing has changed, above 0.25 much has changed."""
DRIFT_ENDS = 0.1

SCORES_MIN = 50
"""Fewer scores say nothing about their distribution."""


class Reference:
    """A window of scores to compare later scores with, cut into bins of about equal mass."""

    def __init__(self, scores: Sequence[float]) -> None:
        """`scores` must be sorted and not empty."""
        cuts = {scores[len(scores) * cut // BINS] for cut in range(1, BINS)}
        self._edges = sorted(cuts)
        self._shares = self._histogram(scores)

    def distance(self, scores: Sequence[float]) -> float:
        """The index of these sorted scores against the reference; 0 for the same distribution."""
        return sum(
            (now - then) * math.log(now / then)
            for now, then in zip(self._histogram(scores), self._shares, strict=True)
        )

    def _histogram(self, scores: Sequence[float]) -> list[float]:
        """The share of each bin; half a score is added to each bin, so that no share is 0."""
        below = [0, *(bisect_left(scores, edge) for edge in self._edges), len(scores)]
        total = len(scores) + (len(below) - 1) / 2
        return [(high - low + 0.5) / total for low, high in pairwise(below)]


class DriftWatch:
    """Notices when the distribution of scores changes, and when it is steady again.

    The watch looks at blocks of scores. Drift begins with a block that is far from the reference.
    Drift ends with a block that is near the reference again, or near the block before: then the new
    traffic becomes the reference.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._scores: list[float] = []
        self._reference: Reference | None = None
        self._previous: Reference | None = None
        self.drifting = False

    def note(self, score: float) -> None:
        """Take one more score."""
        self._scores.append(score)
        if len(self._scores) == self._block:
            self._close(sorted(self._scores))
            self._scores = []

    def distance(self, scores: Sequence[float]) -> float | None:
        """How far these sorted scores are from the reference, None before there is a reference."""
        return None if self._reference is None else self._reference.distance(scores)

    def _close(self, block: Sequence[float]) -> None:
        current = Reference(block)
        if self._reference is None or self._previous is None:
            self._reference = self._previous = current
            return
        distance = self._reference.distance(block)
        if not self.drifting:
            self.drifting = distance >= DRIFT_BEGINS
        elif distance < DRIFT_ENDS:
            self.drifting = False
        elif self._previous.distance(block) < DRIFT_ENDS:
            self.drifting = False
            self._reference = current
        self._previous = current


class ScoreWindow:
    """The newest scores, and whether they are distributed as the earlier scores were."""

    def __init__(self, size: int, scores: Iterable[float] = ()) -> None:
        """`scores` are of earlier calls, in order; the drift watch sees only later scores."""
        self._newest = deque(scores, size)
        self.sorted = sorted(self._newest)
        self._watch = DriftWatch(size)

    @property
    def size(self) -> int:
        """The most scores that the window holds."""
        return self._newest.maxlen or 0

    @property
    def newest(self) -> Sequence[float]:
        """The newest scores, oldest first."""
        return tuple(self._newest)

    @property
    def is_telling(self) -> bool:
        """Whether there are enough scores to judge their distribution."""
        return len(self._newest) >= SCORES_MIN

    @property
    def drift(self) -> float | None:
        """The population stability index of the newest scores, None before there are enough."""
        return self._watch.distance(self.sorted) if self.is_telling else None

    @property
    def drifting(self) -> bool:
        """Whether the scores have left their usual distribution and are not steady again."""
        return self._watch.drifting

    def note(self, score: float) -> None:
        """Take one more score; the oldest score goes if the window is full."""
        if len(self._newest) == self.size:
            del self.sorted[bisect_left(self.sorted, self._newest[0])]
        self._newest.append(score)
        insort(self.sorted, score)
        self._watch.note(score)

    def forget_usual(self) -> None:
        """Forget the scores, because another scorer's scores follow."""
        self._watch = DriftWatch(self.size)
