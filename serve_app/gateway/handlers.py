"""The ASGI handlers: read a body, run the pipeline, pass the answer's bytes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Receive, Scope, Send

from serve_app.core.call import CacheUse, Call, Endpoint, Outcome, Record
from serve_app.core.caller import Caller
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    GatewayError,
    InternalError,
    UpstreamFailed,
)
from serve_app.core.headers import REQUEST_ID_HEADER, VARIANT_HEADER, Headers
from serve_app.core.usage import read_usage
from serve_app.feedback.capture import Capture
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.cache_use import read_cache_use
from serve_app.gateway.client_bytes import open_passage
from serve_app.gateway.credentials import read_credentials
from serve_app.gateway.dialect import Translation, translate
from serve_app.gateway.guard import CALLER, check_endpoint, find_caller
from serve_app.gateway.held_bodies import BodyPlace, HeldBodies
from serve_app.gateway.render import (
    JSON_CONTENT,
    error_headers,
    render_decision,
    render_draft,
    render_error,
    render_error_event,
)
from serve_app.gateway.request_headers import RequestHeaders
from serve_app.gateway.stream_tap import StreamTap
from serve_app.gateway.wire import parse_call
from serve_app.leases.tier import Answer
from serve_app.pipeline import Pipeline

logger = logging.getLogger("ray.serve")

EVENT_STREAM = b"text/event-stream"
FAREWELL_S = 1.0
"""How long a client may take to accept the error after its call has failed."""


class ClientGone(Exception):
    """The client left before it had sent its whole request."""


class Recorder(Protocol):
    """Takes the record of every ended call."""

    def finish(self, record: Record) -> None:
        """Take the record; must neither block nor raise."""
        ...


class Background(Protocol):
    """Takes calls that need not be answered at once."""

    def takes(self, body: bytes) -> bool:
        """Whether a body asks for it."""
        ...

    async def begin(self, caller: Caller, body: bytes) -> bytes:
        """Keep the call; returns the answer that says so.

        Raises:
            GatewayError: the call is wrong, or cannot be kept.
        """
        ...


async def read_body(
    receive: Receive, headers: RequestHeaders, bytes_max: int, held: BodyPlace
) -> bytes:
    """The whole request body.

    Raises:
        BodyTooLarge: it is longer than allowed; the rest is not read.
        TooManyCalls: the Router holds as many bytes of bodies as it may.
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
        held.add(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_body_in_time(
    receive: Receive,
    headers: RequestHeaders,
    bytes_max: int,
    held: BodyPlace,
    deadlines: Deadlines,
) -> bytes:
    """The body as from `read_body`, within the time that the first byte of the answer may take.

    Raises:
        BodyTooSlow: the body did not arrive in that time.
    """
    try:
        async with asyncio.timeout_at(deadlines.head_at(stream=True)):
            return await read_body(receive, headers, bytes_max, held)
    except TimeoutError:
        raise BodyTooSlow from None


@asynccontextmanager
async def whole_in_time(deadlines: Deadlines) -> AsyncIterator[None]:
    """End a call that lasts too long, whether an engine or a slow client is the cause.

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
    """The sending side of one exchange with a client; `begun` says that the head was sent."""

    __slots__ = ("_base", "_send", "begun", "tap")

    def __init__(self, send: Send, base: Headers) -> None:
        self._send = send
        self._base = base
        self.begun = False
        self.tap: StreamTap | None = None
        """The tap that a stream passes through; None where the answer comes in one piece."""

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


@dataclass(frozen=True, slots=True)
class Order:
    """A client's request; `consent` says whether the client lets the call be kept for learning."""

    call: Call
    translation: Translation
    consent: bool | None


class CallHandler:
    """One generation endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        pipeline: Pipeline,
        recorder: Recorder,
        *,
        bodies: HeldBodies,
        feedback: FeedbackCollector | None,
        background: Background | None = None,
        echo_request_id: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._recorder = recorder
        self._bodies = bodies
        self._feedback = feedback
        self._background = background
        self._echo_request_id = echo_request_id
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with BodyPlace(self._bodies) as held:
            await self._call(scope, receive, send, held)

    async def _call(self, scope: Scope, receive: Receive, send: Send, held: BodyPlace) -> None:
        started = self._clock()
        deadlines = self._pipeline.runtime.deadlines.start(asyncio.get_running_loop().time())
        headers = RequestHeaders(scope)
        echo = [(REQUEST_ID_HEADER, headers.request_id.encode())] if self._echo_request_id else []
        response = Response(send, echo)
        record = Record(headers.request_id, self._endpoint, stream=False)
        if self._pipeline.steps.tracer is not None:
            record.trace = self._pipeline.steps.tracer.begin(headers.traceparent)
        try:
            async with whole_in_time(deadlines):
                await self._find_caller(scope, record, deadlines)
                body = await self._receive(headers, receive, held, deadlines)
                if self._background is not None and self._background.takes(body):
                    queued = await self._background.begin(record.caller, body)
                    record.status = 200
                    await response.whole(200, [JSON_CONTENT], queued)
                    return
                order = self._parse(scope, headers, body)
                record.stream = order.call.stream
                if record.trace is not None:
                    record.trace.note_received()
                await self._answer(scope, order, response, record, started, deadlines)
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

    async def _find_caller(self, scope: Scope, record: Record, deadlines: Deadlines) -> None:
        """Note who calls: the client, or the owner of a batch whose line this call is.

        Raises:
            Unauthorized, Forbidden, AccessUnavailable: as in `Pipeline.authenticate`.
        """
        if CALLER in scope:
            record.caller = find_caller(scope)
            deadlines.forgo_first_token()
        elif self._pipeline.steps.access is not None:
            record.caller = await self._pipeline.authenticate(read_credentials(scope))
        check_endpoint(record.caller, self._endpoint)

    async def _receive(
        self,
        headers: RequestHeaders,
        receive: Receive,
        held: BodyPlace,
        deadlines: Deadlines,
    ) -> bytes:
        """Read the body of the client's request.

        Raises:
            GatewayError: the request is no JSON, or did not arrive in time.
        """
        headers.check_media_type()
        if headers.deadline_s is not None:
            deadlines.ask_first_token(headers.deadline_s)
        bytes_max = self._pipeline.runtime.limits.body_bytes_max
        return await read_body_in_time(receive, headers, bytes_max, held, deadlines)

    def _parse(self, scope: Scope, headers: RequestHeaders, body: bytes) -> Order:
        """The call that the client makes.

        Raises:
            BadRequest: the body or a header is not that of a call of this endpoint.
        """
        consent = headers.consent
        cached = self._pipeline.steps.cache is not None
        cache_use = read_cache_use(scope) if cached else CacheUse.DEFAULT
        translation = translate(self._endpoint, body)
        call = parse_call(
            translation.engine_endpoint,
            translation.body,
            request_id=headers.request_id,
            tier=headers.tier,
            limits=headers.limits,
            session=headers.session,
            policy=headers.policy,
            objective=headers.objective,
            bodies=self._pipeline.runtime.bodies,
            cache_use=cache_use,
        )
        return Order(call, translation, consent)

    async def _answer(
        self,
        scope: Scope,
        order: Order,
        response: Response,
        record: Record,
        started: float,
        deadlines: Deadlines,
    ) -> None:
        call, translation = order.call, order.translation
        capture: Capture | None = None
        async with self._pipeline.answer(call, record, deadlines) as answer:
            record.status = answer.status
            content_type = find_header(answer, b"content-type")
            assert record.decision is not None, "the pipeline decides before it answers"
            decided = render_decision(record.decision)
            if record.draft is not None:
                decided += render_draft(record.draft)
            if record.variant is not None:
                decided.append((VARIANT_HEADER, record.variant.encode()))
            decided += record.headers
            out = [(b"content-type", content_type), *decided]
            record.first_byte_s = self._clock() - started
            repeated = record.cache is not None and record.cache.free
            # A label compares the tiers' own models.
            typical = answer.status == 200 and not repeated and record.variant is None
            if self._feedback is not None and typical:
                capture = self._feedback.open(call, record.decision, order.consent)
            if answer.status >= 400:
                await self._refuse(translation, answer, response, record, decided)
            elif content_type.startswith(EVENT_STREAM):
                response.tap = translation.tap(call, record.usage)
                await self._stream(scope, response.tap, answer, response, out, capture)
            else:
                await self._whole(translation, answer, response, record, out, capture)
        if capture is not None and self._feedback is not None:
            self._feedback.take(capture)

    async def _stream(
        self,
        scope: Scope,
        tap: StreamTap,
        answer: Answer,
        response: Response,
        headers: Headers,
        capture: Capture | None,
    ) -> None:
        head = [*headers, (b"cache-control", b"no-cache")]
        while chunk := await answer.read():
            if capture is not None:
                capture.add(chunk)
            if events := tap.feed(chunk):
                if not response.begun:
                    await response.begin(answer.status, head)
                    self._open_passage(scope, tap, answer, capture)
                await response.write(events, more=True)
            if tap.error is not None:
                # Before the first event the error can still be an answer with its own status.
                raise tap.error
        rest = tap.flush()
        if tap.error is not None:
            raise tap.error
        if not response.begun:
            if not rest:
                raise UpstreamFailed
            await response.begin(answer.status, head)
        await response.write(rest, more=False)

    @staticmethod
    def _open_passage(
        scope: Scope, tap: StreamTap, answer: Answer, capture: Capture | None
    ) -> None:
        """Let events that need no look pass to the client without this task."""
        if capture is None and (take := open_passage(scope, tap)) is not None:
            answer.divert(take)

    async def _whole(
        self,
        translation: Translation,
        answer: Answer,
        response: Response,
        record: Record,
        headers: Headers,
        capture: Capture | None,
    ) -> None:
        body = await read_answer(answer)
        if not body:
            # vLLM sends an empty body if it believes that the client has left.
            raise UpstreamFailed
        if capture is not None:
            capture.add(body)
        read_usage(body, record.usage)
        await response.whole(answer.status, headers, translation.whole(body))

    async def _refuse(
        self,
        translation: Translation,
        answer: Answer,
        response: Response,
        record: Record,
        headers: Headers,
    ) -> None:
        error = translation.refusal(answer.status, await read_answer(answer))
        record.status, record.outcome = error.status, Outcome.CLIENT_ERROR
        record.code = error.counted_as
        body = render_error(error, anthropic=self._endpoint.anthropic, request_id=record.request_id)
        await response.whole(error.status, [JSON_CONTENT, *headers], body)

    async def _fail(self, error: GatewayError, response: Response, record: Record) -> None:
        """Send the error, and give up after `FAREWELL_S` because the client may have stopped
        reading."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._tell_failure(error, response, record)

    async def _tell_failure(self, error: GatewayError, response: Response, record: Record) -> None:
        record.code = error.counted_as
        anthropic = self._endpoint.anthropic
        if not response.begun:
            record.status = error.status
            record.outcome = Outcome.CLIENT_ERROR if error.status < 500 else Outcome.SERVER_ERROR
            headers = error_headers(error)
            if record.decision is not None:
                headers += render_decision(record.decision)
            if record.draft is not None:
                headers += render_draft(record.draft)
            headers += record.headers
            body = render_error(error, anthropic=anthropic, request_id=record.request_id)
            await response.whole(error.status, headers, body)
            return
        client_error = error.status < 500
        record.outcome = Outcome.CLIENT_ERROR if client_error else Outcome.BROKEN_STREAM
        if response.tap is not None:
            number = response.tap.next_sequence_number
            event = render_error_event(error, self._endpoint, record.request_id, number)
            await response.write(event, more=False)


async def read_answer(answer: Answer) -> bytes:
    """The whole body of an answer."""
    chunks: list[bytes] = []
    while chunk := await answer.read():
        chunks.append(chunk)
    return b"".join(chunks)


def find_header(answer: Answer, name: bytes) -> bytes:
    """The value of a header of the answer, b'' if it has none."""
    for header, value in answer.headers:
        if header == name:
            return value
    return b""
