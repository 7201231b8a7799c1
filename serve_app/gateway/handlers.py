"""The ASGI handlers: read a body, run the pipeline, pass the answer's bytes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from starlette.types import Receive, Scope, Send

from serve_app.core.call import Call, Endpoint, Outcome, Record
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    GatewayError,
    InternalError,
)
from serve_app.feedback.capture import Capture
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.render import (
    Headers,
    error_headers,
    render_decision,
    render_draft,
    render_error,
    render_error_event,
)
from serve_app.gateway.request_headers import RequestHeaders
from serve_app.gateway.usage import UsageTap, read_usage
from serve_app.gateway.wire import parse_call
from serve_app.pipeline import Pipeline
from serve_app.tiers.tier import Answer

logger = logging.getLogger("ray.serve")

EVENT_STREAM = b"text/event-stream"
FAREWELL_S = 1.0
"""How long a client may take for the news that its call has failed."""


class ClientGone(Exception):
    """The client left before it had sent its request."""


class Recorder(Protocol):
    """Where the record of an ended call goes."""

    def finish(self, record: Record) -> None:
        """Take the record; must neither block nor raise."""
        ...


async def read_body(receive: Receive, headers: RequestHeaders, bytes_max: int) -> bytes:
    """The whole request body.

    Raises:
        BodyTooLarge: it is longer than allowed; the rest is not read.
        ClientGone: the client left.
    """
    if headers.content_length is not None and headers.content_length > bytes_max:
        raise BodyTooLarge(bytes_max)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > bytes_max:
            raise BodyTooLarge(bytes_max)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_body_in_time(
    receive: Receive, headers: RequestHeaders, bytes_max: int, deadlines: Deadlines
) -> bytes:
    """As `read_body`, and not longer than the first byte of the answer may take.

    Raises:
        BodyTooSlow: the body had not come by then.
    """
    try:
        async with asyncio.timeout_at(deadlines.head_at(stream=True)):
            return await read_body(receive, headers, bytes_max)
    except TimeoutError:
        raise BodyTooSlow from None


@asynccontextmanager
async def whole_in_time(deadlines: Deadlines) -> AsyncIterator[None]:
    """End a call that lasts too long, whoever is to blame: an engine, or a client that stalls.

    Raises:
        DeadlineExceeded: the block has not ended by the deadline for the whole call.
    """
    try:
        async with asyncio.timeout_at(deadlines.total_at) as total:
            yield
    except TimeoutError:
        if not total.expired():
            raise
        raise deadlines.missed(stream=False) from None


class Response:
    """The sending side of one exchange with a client, which knows whether it has begun."""

    __slots__ = ("_base", "_send", "begun", "streams")

    def __init__(self, send: Send, base: Headers) -> None:
        self._send = send
        self._base = base
        self.begun = False
        self.streams = False

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head."""
        self.begun = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": headers + self._base}
        )

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send body bytes."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send head and body at once."""
        length = (b"content-length", str(len(body)).encode())
        await self.begin(status, [*headers, length])
        await self.write(body, more=False)


class CallHandler:
    """One generation endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        pipeline: Pipeline,
        recorder: Recorder,
        *,
        feedback: FeedbackCollector | None,
        echo_request_id: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._recorder = recorder
        self._feedback = feedback
        self._echo_request_id = echo_request_id
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = self._clock()
        deadlines = self._pipeline.runtime.deadlines.start(asyncio.get_running_loop().time())
        headers = RequestHeaders(scope)
        echo = [(b"x-request-id", headers.request_id.encode())] if self._echo_request_id else []
        response = Response(send, echo)
        record = Record(headers.request_id, self._endpoint, stream=False)
        try:
            async with whole_in_time(deadlines):
                call, consent = await self._receive(headers, receive, deadlines)
                record.stream = call.stream
                await self._answer(call, consent, response, record, started, deadlines)
        except GatewayError as error:
            await self._fail(error, response, record)
        except ClientGone:
            record.outcome = Outcome.DISCONNECTED
        except asyncio.CancelledError:
            record.outcome = Outcome.DISCONNECTED
            raise
        except Exception:
            logger.exception("request %s failed", headers.request_id)
            await self._fail(InternalError(), response, record)
        finally:
            record.total_s = self._clock() - started
            self._recorder.finish(record)

    async def _receive(
        self, headers: RequestHeaders, receive: Receive, deadlines: Deadlines
    ) -> tuple[Call, bool | None]:
        """The call, and whether its caller lets it be kept for learning.

        Raises:
            GatewayError: it is no call of this endpoint, or did not come in time.
        """
        headers.check_media_type()
        consent = headers.consent
        bytes_max = self._pipeline.runtime.limits.body_bytes_max
        body = await read_body_in_time(receive, headers, bytes_max, deadlines)
        call = parse_call(
            self._endpoint,
            body,
            request_id=headers.request_id,
            tier=headers.tier,
            limits=headers.limits,
            session=headers.session,
            policy=headers.policy,
            bodies=self._pipeline.runtime.bodies,
        )
        return call, consent

    async def _answer(
        self,
        call: Call,
        consent: bool | None,
        response: Response,
        record: Record,
        started: float,
        deadlines: Deadlines,
    ) -> None:
        capture: Capture | None = None
        async with self._pipeline.answer(call, record, deadlines) as answer:
            record.status = answer.status
            content_type = find_header(answer, b"content-type")
            assert record.decision is not None, "the pipeline decides before it answers"
            out = [(b"content-type", content_type), *render_decision(record.decision)]
            if record.draft is not None:
                out += render_draft(record.draft)
            record.first_byte_s = self._clock() - started
            if self._feedback is not None and answer.status == 200:
                capture = self._feedback.open(call, record.decision, consent)
            if content_type.startswith(EVENT_STREAM):
                await self._stream(call, answer, response, record, out, capture)
            else:
                await self._whole(answer, response, record, out, capture)
        if capture is not None and self._feedback is not None:
            self._feedback.take(capture)

    async def _stream(
        self,
        call: Call,
        answer: Answer,
        response: Response,
        record: Record,
        headers: Headers,
        capture: Capture | None,
    ) -> None:
        response.streams = True
        tap = UsageTap(record.usage, hide=call.adds_usage)
        await response.begin(answer.status, [*headers, (b"cache-control", b"no-cache")])
        while chunk := await answer.read():
            if capture is not None:
                capture.add(chunk)
            events = tap.feed(chunk)
            if events:
                await response.write(events, more=True)
        await response.write(tap.flush(), more=False)

    async def _whole(
        self,
        answer: Answer,
        response: Response,
        record: Record,
        headers: Headers,
        capture: Capture | None,
    ) -> None:
        chunks: list[bytes] = []
        while chunk := await answer.read():
            chunks.append(chunk)
        body = b"".join(chunks)
        if capture is not None:
            capture.add(body)
        if answer.status < 400:
            read_usage(body, record.usage)
        else:
            record.outcome = Outcome.CLIENT_ERROR
            record.code = "engine"
        await response.whole(answer.status, headers, body)

    async def _fail(self, error: GatewayError, response: Response, record: Record) -> None:
        """Tell the client, if it takes the news at once; one that has stopped reading does not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._tell_failure(error, response, record)

    async def _tell_failure(self, error: GatewayError, response: Response, record: Record) -> None:
        record.code = error.code or "internal_error"
        anthropic = self._endpoint.anthropic
        if not response.begun:
            record.status = error.status
            record.outcome = Outcome.CLIENT_ERROR if error.status < 500 else Outcome.SERVER_ERROR
            headers = error_headers(error)
            if record.decision is not None:
                headers += render_decision(record.decision)
            if record.draft is not None:
                headers += render_draft(record.draft)
            body = render_error(error, anthropic=anthropic, request_id=record.request_id)
            await response.whole(error.status, headers, body)
            return
        record.outcome = Outcome.BROKEN_STREAM
        if response.streams:
            event = render_error_event(error, anthropic=anthropic, request_id=record.request_id)
            await response.write(event, more=False)


def find_header(answer: Answer, name: bytes) -> bytes:
    """The value of a header of the answer, b'' if it has none."""
    for header, value in answer.headers:
        if header == name:
            return value
    return b""
