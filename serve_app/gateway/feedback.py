"""`POST /v1/feedback`: an application reports whether an answer was right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from serve_app.core.errors import BodyTooSlow, FeedbackOff, InvalidField
from serve_app.feedback.collector import FeedbackCollector
from serve_app.feedback.lines import FeedbackReport
from serve_app.gateway.handlers import read_body
from serve_app.gateway.held_bodies import BodyPlace, HeldBodies
from serve_app.gateway.request_headers import REQUEST_ID, RequestHeaders
from serve_app.gateway.wire import parse_json

BODY_BYTES_MAX = 64 * 1024
BODY_S = 60.0
"""How long the body of a request to a page may take."""
COMMENT_CHARS_MAX = 2000
KEYS = ("request_id", "right", "comment")


def build_feedback_page(
    feedback: FeedbackCollector | None, bodies: HeldBodies
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint. It does not look up the id, because any Router may have had the call."""

    async def take_feedback(request: Request) -> Response:
        headers = RequestHeaders(request.scope)
        headers.check_media_type()
        with BodyPlace(bodies) as held:
            body = await read_page_body(request.receive, headers, BODY_BYTES_MAX, held)
        report = parse_report(body)
        if feedback is None:
            raise FeedbackOff
        kept = {"object": "feedback", **asdict(await feedback.report(report))}
        return Response(orjson.dumps(kept), 202, media_type="application/json")

    return take_feedback


async def read_page_body(
    receive: Receive,
    headers: RequestHeaders,
    bytes_max: int,
    held: BodyPlace,
    *,
    body_s: float = BODY_S,
) -> bytes:
    """The body of a request to a page.

    Raises:
        BodyTooSlow: the body took longer than `body_s`.
        BodyTooLarge, TooManyCalls, ClientGone: as in `read_body`.
    """
    try:
        async with asyncio.timeout(body_s):
            return await read_body(receive, headers, bytes_max, held)
    except TimeoutError:
        raise BodyTooSlow from None


def parse_report(body: bytes) -> FeedbackReport:
    """The feedback report in a request's body.

    Raises:
        BadRequest: the body is not a feedback report; names the field.
    """
    document = parse_json(body)
    for key in document:
        if key not in KEYS:
            raise InvalidField(key[:100], f"one of the fields {', '.join(KEYS)}")
    request_id, right = document.get("request_id"), document.get("right")
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id.encode()):
        raise InvalidField(
            "request_id", "the `x-request-id` of the answer, 1 to 128 of A-Z a-z 0-9 . _ : -"
        )
    if not isinstance(right, bool):
        raise InvalidField("right", "true or false")
    comment = document.get("comment")
    if comment is not None and not (isinstance(comment, str) and len(comment) <= COMMENT_CHARS_MAX):
        raise InvalidField("comment", f"a string of at most {COMMENT_CHARS_MAX} characters")
    return FeedbackReport(request_id, right, comment)
