"""Feedback logs as the Router writes them, by the Router's own functions."""

from __future__ import annotations

from pathlib import Path

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Decision, Reason
from serve_app.feedback.lines import FeedbackReport, render_call, render_label, render_report
from serve_app.feedback.sample import Label
from serve_app.feedback.sampling import TierPair

PAIR = TierPair(TierConfig(name="fast", model_id="S"), TierConfig(name="strong", model_id="L"))
DIFFERENT = Label(0.0, 1.0, "match", same=False)
SAME = Label(1.0, 1.0, "match", same=True)
BOTH_WRONG = Label(0.0, 0.0, "judge", same=False)
FAST_ONLY = Label(1.0, 0.0, "judge", same=False)


def call(
    name: str,
    question: str | None = None,
    *,
    by: str = "fast",
    answer: str | None = "ours",
    consented: bool = True,
) -> bytes:
    """A kept call with the answer of the tier `by`."""
    return render_call(
        name,
        [("user", question or f"{name}?")],
        schema=False,
        decision=Decision(by, "S" if by == "fast" else "L", Reason.SIMPLE, 0.3),
        pair=PAIR,
        answer=answer,
        consented=consented,
    )


def label(name: str, value: Label = DIFFERENT, other: str | None = "theirs") -> bytes:
    """Its label with the other tier's answer."""
    return render_label(name, value, other)


def thumb(name: str, *, right: bool) -> bytes:
    """What an application says of the answer."""
    return render_report(FeedbackReport(name, right))


def write_log(directory: Path, *lines: bytes) -> Path:
    """A log of one Router."""
    directory.mkdir(exist_ok=True)
    (directory / "calls_0.jsonl").write_bytes(b"".join(lines))
    return directory
