"""Renders errors, models and decisions as the JSON that clients of either dialect expect."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from serve_app.core.call import Decision, Draft, Endpoint
from serve_app.core.errors import GatewayError
from serve_app.core.headers import (
    CONFIDENCE_HEADER,
    DISCARDED_TOKENS_HEADER,
    ESCALATED_HEADER,
    MODEL_HEADER,
    REASON_HEADER,
    SCORE_HEADER,
    TIER_HEADER,
    Headers,
)

ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""https://docs.anthropic.com/en/api/errors; any other 4xx is an `invalid_request_error`, any other
5xx an `api_error`."""

JSON_CONTENT = (b"content-type", b"application/json")


def render_error(error: GatewayError, *, anthropic: bool, request_id: str) -> bytes:
    """The error object in the dialect of the endpoint."""
    if anthropic:
        other = "invalid_request_error" if error.status < 500 else "api_error"
        kind = ANTHROPIC_TYPES.get(error.status, other)
        body = {"type": kind, "message": error.message}
        return orjson.dumps({"type": "error", "error": body, "request_id": request_id})
    return orjson.dumps({"error": _openai_error(error)})


def _openai_error(error: GatewayError) -> dict[str, str | None]:
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }


def render_error_event(
    error: GatewayError, endpoint: Endpoint, request_id: str, sequence_number: int = 0
) -> bytes:
    """The error as a server-sent event, for a stream that has begun.

    OpenAI documents the error event of a Responses stream with flat fields, but OpenAI's Python
    client raises only for an `error` object. So the event has both.
    """
    if endpoint is Endpoint.RESPONSES:
        fields = _openai_error(error)
        document = {**fields, "type": "error", "sequence_number": sequence_number, "error": fields}
        return b"event: error\ndata: " + orjson.dumps(document) + b"\n\n"
    body = render_error(error, anthropic=endpoint.anthropic, request_id=request_id)
    prefix = b"event: error\n" if endpoint.anthropic else b""
    return prefix + b"data: " + body + b"\n\n"


def error_headers(error: GatewayError) -> Headers:
    """The headers of an error answer."""
    headers = [JSON_CONTENT]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return headers


def render_decision(decision: Decision) -> Headers:
    """The decision as headers of the answer."""
    headers = [
        (TIER_HEADER, decision.tier.encode()),
        (MODEL_HEADER, decision.model_id.encode("latin-1", "replace")),
        (REASON_HEADER, decision.reason.value.encode()),
    ]
    if decision.score is not None:
        headers.append((SCORE_HEADER, b"%.4f" % decision.score))
    return headers


def render_draft(draft: Draft) -> Headers:
    """The result of the draft that a cascade began with, as headers of the answer."""
    headers = [(ESCALATED_HEADER, b"true" if draft.discarded else b"false")]
    if draft.confidence is not None:
        headers.append((CONFIDENCE_HEADER, b"%.4f" % draft.confidence))
    if draft.discarded and draft.usage.prompt_tokens is not None:
        tokens = (draft.usage.prompt_tokens, draft.usage.completion_tokens or 0)
        headers.append((DISCARDED_TOKENS_HEADER, b"in=%d, out=%d" % tokens))
    return headers


def render_models(model_ids: Sequence[str], created: int) -> bytes:
    """The list of models, with the fields of OpenAI's list and of Anthropic's list side by side."""
    return orjson.dumps(
        {
            "object": "list",
            "data": [model_card(model_id, created) for model_id in model_ids],
            "has_more": False,
            "first_id": model_ids[0],
            "last_id": model_ids[-1],
        }
    )


def model_card(model_id: str, created: int) -> dict[str, str | int]:
    """One model; `created` is the Unix time in seconds at which this Router started."""
    return {
        "id": model_id,
        "object": "model",
        "created": created,
        "owned_by": "serve-app",
        "type": "model",
        "display_name": model_id,
    }
