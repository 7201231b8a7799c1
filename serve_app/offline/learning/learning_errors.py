"""The errors that stop learning.

LearningFailed
├── InvalidRecords      a line of the records cannot be used
├── TooFewRecords       the records are too few to fit or to judge weights
└── WouldReplace        new weights may not take the place of the existing ones
    ├── WouldReplaceBetter     the existing weights are better
    ├── WouldReplaceUnknown    the existing weights do not say what they were learnt from
    └── WouldReplaceRicher     the existing weights were learnt from many more calls
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


class WouldReplace(LearningFailed):
    """New weights may not take the place of the existing ones."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} {why} The new weights were not written. Use another --out, or --force."
        )


class WouldReplaceBetter(WouldReplace):
    """The existing weights are better on calls that neither was learnt from."""

    def __init__(self, path: Path, calls: int, theirs: float, ours: float) -> None:
        super().__init__(
            path,
            f"holds better weights: on {calls} calls that neither was learnt from, APGR "
            f"{theirs:.3f}, and {ours:.3f} for the new weights.",
        )


class WouldReplaceUnknown(WouldReplace):
    """The existing weights look better, but they may have learnt from the calls that judge them."""

    def __init__(self, path: Path, calls: int, theirs: float, ours: float) -> None:
        super().__init__(
            path,
            "holds weights that do not say what they were learnt from (an older serve-app wrote "
            f"them). On {calls} calls that they may know, they have an APGR of {theirs:.3f}, and "
            f"the new weights, which do not know these calls, {ours:.3f}.",
        )


class WouldReplaceRicher(WouldReplace):
    """No weights are shown to be better, and the existing ones were learnt from many more calls."""

    def __init__(self, path: Path, calls: int, theirs: int, ours: int) -> None:
        super().__init__(
            path,
            f"holds weights that were learnt from {theirs} calls, and the new weights from {ours}. "
            f"The {calls} calls that neither was learnt from do not show which are better.",
        )
