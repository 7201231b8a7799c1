"""Why nothing was learnt.

LearningFailed
├── InvalidRecords      a line of the records cannot be used
├── TooFewRecords       there is not enough to fit or to judge
└── WouldReplaceBetter  the weights that are there are better on these records
"""

from __future__ import annotations

from pathlib import Path


class LearningFailed(Exception):
    """No new weights were written."""


class InvalidRecords(LearningFailed):
    """A line of the records cannot be used; says which, at which key, and what belongs there."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


class TooFewRecords(LearningFailed):
    """There is not enough to fit or to judge."""


class WouldReplaceBetter(LearningFailed):
    """The weights that are there are better on these records."""

    def __init__(self, path: Path, theirs: float, ours: float) -> None:
        super().__init__(
            f"{path} holds better weights: APGR {theirs:.3f} on these records, the new ones have "
            f"{ours:.3f}, and were not written. Name another --out, or use --force."
        )
