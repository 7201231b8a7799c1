"""The lines of the feedback log: a call, its label, an application's feedback on it.

`serve-app learn` joins them by `request_id` (`offline/learning/feedback_log.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from serve_app.core.call import Decision
from serve_app.feedback.sample import Label
from serve_app.feedback.sampling import TierPair


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """An application's report on an answer."""

    request_id: str
    right: bool
    comment: str | None = None


def render_call(
    request_id: str,
    messages: Sequence[tuple[str, str]],
    *,
    schema: bool,
    decision: Decision,
    pair: TierPair,
    answer: str | None,
    consented: bool = False,
) -> bytes:
    """A kept call; its texts are redacted already, `answer` is None where it is not kept.

    `consented`: the client itself said yes; otherwise the config assumed it.
    """
    return _render(
        "call",
        request_id,
        messages=[{"role": role, "content": text} for role, text in messages],
        schema=schema,
        consent="given" if consented else "assumed",
        answered_by=decision.tier,
        answered_by_large=decision.tier == pair.large.name,
        small_model=pair.small.model_id,
        large_model=pair.large.model_id,
        score=decision.score,
        **({} if answer is None else {"answer": answer}),
    )


def render_label(request_id: str, label: Label, other_answer: str | None) -> bytes:
    """A label; `other_answer` is redacted already, None where it is not to be kept."""
    return _render(
        "label",
        request_id,
        small_score=label.small_score,
        large_score=label.large_score,
        label=label.kind,
        same=label.same,
        **({} if other_answer is None else {"other_answer": other_answer}),
    )


def render_report(report: FeedbackReport) -> bytes:
    """An application's feedback; its comment is redacted already."""
    comment = {} if report.comment is None else {"comment": report.comment}
    return _render("feedback", report.request_id, right=report.right, **comment)


def _render(kind: str, request_id: str, **fields: object) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"kind": kind, "request_id": request_id, "time": now, **fields}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
