"""One keep-alive HTTP connection of the load generator, as cheap as Python allows."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import httptools

_DATA_EVENT = re.compile(rb"(?:^|\n)data:[^\r\n]*\r?\n")
_CUT_OFF_AT_LENGTH = re.compile(rb'"finish_reason": ?"length"')
_END_OF_STREAM = b"data: [DONE]"


class RequestFailed(Exception):
    """The server did not give the whole answer that was asked for."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One answered request; times are seconds since its first byte was sent at `sent_at`."""

    sent_at: float
    first_event_s: float
    total_s: float


class LoadConnection(asyncio.Protocol):
    """Sends one request after another and times the answers.

    The timing sits in the parser's callbacks, not in a reader task: at a thousand chunks a second a
    task switch for each would make the generator the thing measured.
    """

    def __init__(self) -> None:
        self.reusable = False
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answered: asyncio.Future[Timing] | None = None
        self._body: list[bytes] = []
        self._sent_at = 0.0
        self._first_event_at: float | None = None

    async def ask(self, request: bytes, stream: bool) -> Timing:
        """Sends a whole request and returns when the last byte of its answer is here.

        Raises:
            RequestFailed: the status is not 200, or the answer is broken off or too short.
        """
        assert self._transport is not None
        # A parser of its own for each answer: what a bad one left behind must not reach the next.
        self._parser = parser = httptools.HttpResponseParser(self)
        self._answered = asyncio.get_running_loop().create_future()
        self._body = []
        self._first_event_at = None if stream else 0.0
        self._sent_at = perf_counter()
        self._transport.write(request)
        sample = await self._answered
        self._check(parser.get_status_code(), b"".join(self._body), stream)
        return sample

    def close(self) -> None:
        """Closes the connection without waiting for an answer."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.reusable = True

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fail("the connection was closed before the answer was complete")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        if self._first_event_at is None and _DATA_EVENT.search(b"".join(self._body)):
            self._first_event_at = perf_counter()

    def on_message_complete(self) -> None:
        now = perf_counter()
        assert self._parser is not None
        assert self._answered is not None
        self.reusable = self._parser.should_keep_alive()
        first_event_at = self._first_event_at or now
        if not self._answered.done():
            sent_at = self._sent_at
            self._answered.set_result(Timing(sent_at, first_event_at - sent_at, now - sent_at))

    def _fail(self, reason: str) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(RequestFailed(reason))

    @staticmethod
    def _check(status: int, body: bytes, stream: bool) -> None:
        """A stream that ends early is an error even though HTTP calls it complete."""
        if status != 200:
            raise RequestFailed(f"status {status}: {body[:300]!r}")
        if stream and _END_OF_STREAM not in body[-64:]:
            raise RequestFailed(f"the stream has no end: {body[-300:]!r}")
        if not _CUT_OFF_AT_LENGTH.search(body):
            raise RequestFailed(f"not every token came: {body[-300:]!r}")


async def connect(host: str, port: int) -> LoadConnection:
    """Opens a connection.

    Raises:
        RequestFailed: no server listens there.
    """
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(LoadConnection, host, port)
    except OSError as error:
        raise RequestFailed(f"cannot connect: {error}") from error
    return connection
