"""Turns a captured call into a line to store and a sample to label; runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.config.feedback import FeedbackConfig
from serve_app.core.held_body import BYTES_BESIDE, BYTES_PER_CHAR
from serve_app.core.redact import RedactionFailed, Redactor
from serve_app.feedback.answer_text import answer_text
from serve_app.feedback.capture import Capture
from serve_app.feedback.lines import render_call
from serve_app.feedback.sample import Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate


@dataclass(frozen=True, slots=True)
class Prepared:
    """The line to store, which is redacted, and the sample, which is not."""

    line: bytes
    sample: Sample


def prepare(
    capture: Capture, pair: TierPair, config: FeedbackConfig, redactor: Redactor
) -> Prepared | Fate:
    """The line and the sample, or the reason why the call is not kept."""
    call, turns = capture.call, capture.call.prompt.turns
    answer_body = capture.body()
    if answer_body is None:
        return Fate.TOO_LONG
    answer = answer_text(call.endpoint, answer_body)
    body = call.payload.for_label(capture.other.model_id)
    if answer is None or body is None:
        return Fate.NO_TEXT
    bytes_max = BYTES_PER_CHAR * config.text_chars_max + BYTES_BESIDE
    if len(answer) > config.text_chars_max or len(body) > bytes_max:
        return Fate.TOO_LONG
    try:
        texts = redactor.redact([turn.text for turn in turns])
        [kept_answer] = redactor.redact([answer]) if config.store_answers else [None]
    except RedactionFailed:
        return Fate.NOT_REDACTED
    line = render_call(
        call.request_id,
        [(turn.role, text) for turn, text in zip(turns, texts, strict=True)],
        schema=call.prompt.schema,
        decision=capture.decision,
        pair=pair,
        answer=kept_answer,
    )
    other_is_large = capture.other.name == pair.large.name
    sample = Sample(
        call.request_id,
        call.endpoint,
        turns,
        answer,
        capture.other.name,
        other_is_large,
        body,
        score=capture.decision.score,
    )
    return Prepared(line, sample)
