"""What became of samples: a closed set, so that it can label metrics."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Fate(StrEnum):
    """One thing that happened to a sample; one sample may see several."""

    STORED = "stored"
    LABELLED_MATCH = "labelled_match"
    LABELLED_JUDGE = "labelled_judge"
    UNDECIDED = "undecided"
    """The answers are not the same word for word, and too long to be called different."""
    BAD_VERDICT = "bad_verdict"
    """The judge did not answer as it was asked to."""
    YIELDED = "yielded"
    """Its label call was stopped for somebody else's call; it waits for another try."""
    TOO_LONG = "too_long"
    QUEUE_FULL = "queue_full"
    NO_TEXT = "no_text"
    """An answer is no text, or there is nothing to ask the other tier."""
    NOT_REDACTED = "not_redacted"
    """The patterns took too long, so nothing was written."""
    REFUSED = "refused"
    """The other tier's engine refused the body."""
    GIVEN_UP = "given_up"
    """No label came of all its tries."""
    UNWRITTEN = "unwritten"
    """A line was lost: the disk is full, or the directory cannot be written."""


class FeedbackTally:
    """Counts since they were last taken."""

    def __init__(self) -> None:
        self.fates: Counter[Fate] = Counter()
        self.verdicts: Counter[bool] = Counter()
        """Feedback of applications: right or wrong."""

    def take(self) -> tuple[Counter[Fate], Counter[bool]]:
        """What has been counted; begins anew."""
        fates, self.fates = self.fates, Counter()
        verdicts, self.verdicts = self.verdicts, Counter()
        return fates, verdicts
