"""The results of samples: a closed set, so that a result can label metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """An event in the life of a sample; a sample may have several."""

    STORED = "stored"
    LABELLED_MATCH = "labelled_match"
    LABELLED_JUDGE = "labelled_judge"
    UNDECIDED = "undecided"
    """The answers differ in their words, and are too long to be called different; or the judge
    contradicts itself if the answers stand in the other order."""
    BAD_VERDICT = "bad_verdict"
    """The judge did not answer in the requested form."""
    YIELDED = "yielded"
    """The label call was stopped for a user's call; the sample waits for another try."""
    TOO_LONG = "too_long"
    QUEUE_FULL = "queue_full"
    NO_TEXT = "no_text"
    """An answer is not text, or there is no question for the other tier."""
    NOT_REDACTED = "not_redacted"
    """The patterns took too long, so nothing was written."""
    REFUSED = "refused"
    """The other tier's engine refused the body."""
    GIVEN_UP = "given_up"
    """All tries ended without a label."""
    ADOPTED = "adopted"
    """The sample waited for its label when its Router ended; this Router has taken it over."""
    UNWRITTEN = "unwritten"
    """A line was lost: the disk is full, or the directory cannot be written."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A tier's answer with a label; `band` is the tenth of the complexity scores that the call is
    in, None where nothing was scored."""

    tier: str
    right: bool
    band: int | None


class FeedbackTally:
    """Counts since they were last taken."""

    def __init__(self) -> None:
        self.fates: Counter[Fate] = Counter()
        self.verdicts: Counter[bool] = Counter()
        """Feedback of applications: right or wrong."""
        self.judged: Counter[Judged] = Counter()
        """Answers of labelled calls."""

    def take(self) -> tuple[Counter[Fate], Counter[bool]]:
        """The counts since the last call; then counting begins anew."""
        fates, self.fates = self.fates, Counter()
        verdicts, self.verdicts = self.verdicts, Counter()
        return fates, verdicts

    def take_judged(self) -> Counter[Judged]:
        """The labelled answers since the last call; then counting begins anew."""
        judged, self.judged = self.judged, Counter()
        return judged


BANDS = 10


def band_of(score: float | None) -> int | None:
    """The tenth of the complexity scores, 0 to 9."""
    return None if score is None else min(int(score * BANDS), BANDS - 1)
