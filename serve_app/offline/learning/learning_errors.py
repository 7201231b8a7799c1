"""The errors that stop learning.

LearningFailed
├── InvalidRecords      a line of the records cannot be used
├── TooFewRecords       the records are too few to fit or to judge weights
└── WouldReplaceBetter  the existing weights are better on these records
"""

from __future__ import annotations

from pathlib import Path


class LearningFailed(Exception):
    """No new weights were written."""


class InvalidRecords(LearningFailed):
    """A line of the records cannot be used; the message names the line, the key and the expected
    value."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


class TooFewRecords(LearningFailed):
    """The records are too few to fit or to judge weights."""


class WouldReplaceBetter(LearningFailed):
    """The existing weights are better on these records."""

    def __init__(self, path: Path, theirs: float, ours: float) -> None:
        super().__init__(
            f"{path} holds better weights: on these records, APGR {theirs:.3f}, and {ours:.3f} for "
            "the new weights. The new weights were not written. Use another --out, or --force."
        )
