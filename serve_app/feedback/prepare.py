"""Turns a captured call into a line to store and a sample to label; runs in a thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from serve_app.config.feedback import FeedbackConfig
from serve_app.core.held_body import BYTES_BESIDE, BYTES_PER_CHAR
from serve_app.core.redact import RedactionFailed, Redactor
from serve_app.feedback.answer_text import answer_text
from serve_app.feedback.capture import Capture
from serve_app.feedback.lines import render_call
from serve_app.feedback.sample import Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate
from serve_app.feedback.waiting import render_sample


@dataclass(frozen=True, slots=True)
class Prepared:
    """The line to store and the sample to keep, which are redacted, and the sample to label, which
    is not."""

    line: bytes
    sample: Sample
    waiting: bytes


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
    document = orjson.loads(body)
    try:
        redacted = _redact(redactor, [answer, *(turn.text for turn in turns), *_texts(document)])
    except RedactionFailed:
        return Fate.NOT_REDACTED
    kept_turns = [(turn.role, redacted[turn.text]) for turn in turns]
    line = render_call(
        call.request_id,
        kept_turns,
        schema=call.prompt.schema,
        decision=capture.decision,
        pair=pair,
        answer=redacted[answer] if config.store_answers else None,
        consented=capture.consented,
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
    kept_body = orjson.dumps({**_swap(document, redacted), "model": document["model"]})
    waiting = render_sample(sample, kept_turns, redacted[answer], kept_body)
    return Prepared(line, sample, waiting)


def _redact(redactor: Redactor, texts: Sequence[str]) -> dict[str, str]:
    """The redacted form of each text; a prompt is in the call and in the body, and costs once."""
    each = list(dict.fromkeys(texts))
    return dict(zip(each, redactor.redact(each), strict=True))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value; names of fields are no texts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _swap(value: Any, texts: dict[str, str]) -> Any:
    """The JSON value with other texts in the place of its own."""
    if isinstance(value, str):
        return texts[value]
    if isinstance(value, dict):
        return {name: _swap(part, texts) for name, part in value.items()}
    return [_swap(part, texts) for part in value] if isinstance(value, list) else value
