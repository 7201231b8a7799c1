"""Whether an answer is whole: a broken answer is never stored."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from serve_app.core.call import Decision, Endpoint, Reason

ENDS = {
    Endpoint.CHAT: b"data: [DONE]",
    Endpoint.COMPLETIONS: b"data: [DONE]",
    Endpoint.MESSAGES: b'"type":"message_stop"',
    Endpoint.RESPONSES: b'"type":"response.completed"',
}
"""What the last event of a whole stream has."""
TAIL_BYTES = 512 * 1024
"""The last event of a Responses stream repeats the answer."""
BROKEN = (b'"finish_reason":"abort"', b'"finish_reason":"error"', b'"status":"incomplete"')
"""In text that a model wrote every quote is escaped, so these patterns cannot match there."""
MAKESHIFT = frozenset({Reason.FALLBACK, Reason.DRAFT_FAILED})
"""Reasons of decisions that were made because a tier failed."""


def is_lasting(decision: Decision | None) -> bool:
    """Whether the same call would be decided alike on a better day."""
    return decision is not None and decision.reason not in MAKESHIFT


def is_whole(endpoint: Endpoint, content_type: bytes, chunks: Sequence[bytes]) -> bool:
    """Whether the chunks are a complete, successful answer."""
    body = b"".join(chunks)
    if any(pattern in body for pattern in BROKEN):
        return False
    if content_type.startswith(b"text/event-stream"):
        return ENDS.get(endpoint, b"\0") in body[-TAIL_BYTES:]
    return _is_answer(body)


def _is_answer(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and not document.get("error")
