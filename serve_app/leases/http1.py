"""A lean HTTP/1.1 client connection for the data plane.

Every token of every stream passes here. A call whose answer has 16 chunks costs aiohttp 1.5 times
and httpx 4.9 times the CPU that it costs here (`serve-app bench clients`; decision 0003). This
client parses with httptools, passes on body bytes as they come, and implements only the features
that the engine's server needs: keep-alive, Content-Length and chunked bodies, deadlines,
back-pressure.

A `Connection` carries one `Exchange` at a time. It is free for the next one when the answer's last
byte has come in, although a slow client may not have read the answer yet.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import cast

import httptools

from serve_app.core.chunks import Take, are_whole_events
from serve_app.core.deadlines import Deadlines
from serve_app.core.headers import Headers
from serve_app.core.peer_watch import SILENT_S_MAX, watch_peer

BUFFER_BYTES_MAX = 1 << 20
"""The most body bytes that an exchange holds for a slow client before it pauses the engine."""

IDLE_S_MAX = 30.0
"""Idle connections older than this are not reused; the engine's server keeps them longer."""

Address = tuple[str, int] | tuple[str, int, bytes]
"""Host and port, and for a server that speaks TLS the SHA-256 of its certificate (DER)."""


class ConnectionBroken(Exception):
    """The peer closed, reset or garbled the connection; `begun` says if an answer had begun."""

    def __init__(self, begun: bool) -> None:
        super().__init__(begun)
        self.begun = begun


class ExchangeTimeout(Exception):
    """A deadline passed: `limit` names it, `seconds` is its length."""

    def __init__(self, limit: str, seconds: float) -> None:
        super().__init__(limit, seconds)
        self.limit = limit
        self.seconds = seconds


class Exchange:
    """One request and its answer: wait for `head`, then `read` until b''."""

    def __init__(
        self,
        connection: Connection,
        deadlines: Deadlines,
        on_complete: Callable[[], None],
        *,
        stream: bool,
        silent: bool,
    ) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._deadlines = deadlines
        self._on_complete = on_complete
        self._silent = silent
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._paused = False
        self._error: Exception | None = None
        self._has_head = False
        self._take: Take | None = None
        self.status = 0
        self.headers: Headers = []
        self.complete = False
        """The answer's last byte has come in."""
        self._deadline = deadlines.head_at(stream=stream)
        missed = deadlines.missed(stream=stream)
        self._limit = (missed.limit, missed.seconds)
        self._arm()

    # Methods that the owner calls.

    async def head(self) -> None:
        """Wait until `status` and `headers` are known.

        Raises:
            ConnectionBroken: the peer went away first.
            ExchangeTimeout: no head came in time.
        """
        while not self._has_head:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def first(self) -> None:
        """Wait until the first bytes of the body have come, or its end.

        Raises:
            ConnectionBroken: the peer went away first.
            ExchangeTimeout: no bytes came in time.
        """
        while not (self._chunks or self.complete):
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """The body bytes that have come since the last call, b'' after the last ones.

        Raises:
            ConnectionBroken: the peer went away in the middle.
            ExchangeTimeout: the next bytes did not come in time.
        """
        while not self._chunks:  # Not `first`: this runs for every token.
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        if self._paused:
            self._resume()
        return data

    def divert(self, take: Take) -> None:
        """Offer whole chunks to `take` while a `read` waits; what it leaves is read as before.

        A `read` that waits has given away all that came before, so the order stays.
        """
        self._take = take

    def abandon(self) -> None:
        """Drop the connection, unless the answer is complete and the connection serves others."""
        if not self.complete:
            self._connection.close()

    # Methods that the connection calls.

    def note_data(self) -> None:
        """Bytes have come: the peer is not silent."""
        if not self._silent:
            self._expect_more()

    def pass_on(self, chunks: bytes) -> bool:
        """Whether the bytes have gone past the owner; they begin where a chunk does."""
        take, waiter = self._take, self._waiter
        return (
            take is not None
            and waiter is not None
            # A cancelled waiter's owner is about to leave.
            and not waiter.done()
            and are_whole_events(chunks)
            and take(chunks)
        )

    def note_headers(self, status: int) -> None:
        """The head has come."""
        self.status = status
        self._has_head = True
        if self._silent:
            self._deadline = self._deadlines.total_at
            self._limit = ("total", self._deadlines.total_s)
        self._wake()

    def note_body(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > BUFFER_BYTES_MAX:
            self._paused = True
            self._connection.pause_reading()
        self._wake()

    def finish(self) -> None:
        """The last byte has come: the owner may use the connection for the next call."""
        self.complete = True
        self._disarm()
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        self._wake()
        self._on_complete()

    def fail(self, error: Exception) -> None:
        """The answer has failed, and no more of it will come."""
        self._disarm()
        if self._error is None:
            self._error = error
        self._wake()

    # Waiting.

    def _wait(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _resume(self) -> None:
        # The engine could not send while reading was paused, so its silence begins now.
        self._paused = False
        self.note_data()
        self._connection.resume_reading()

    def _expect_more(self) -> None:
        deadlines = self._deadlines
        deadline = self._loop.time() + deadlines.gap_s
        if deadline < deadlines.total_at:
            self._deadline, self._limit = deadline, ("gap", deadlines.gap_s)
        else:
            self._deadline, self._limit = deadlines.total_at, ("total", deadlines.total_s)
        # Deadlines mostly move away from the timer, which then re-arms itself when it fires: moving
        # it for every piece of data would cost more than parsing the piece.
        if self._timer is None or self._timer.when() > self._deadline:
            self._arm()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        now = self._loop.time()
        if self._paused:
            # The client is slow, not the engine.
            self._deadline = min(now + self._deadlines.gap_s, self._deadlines.total_at)
        if now < self._deadline:
            self._arm()
            return
        self.fail(ExchangeTimeout(*self._limit))
        self._connection.close()


class Connection(asyncio.Protocol):
    """One connection to a replica."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._message_complete = False
        self._between_chunks = False
        """The parser has read the whole of a chunk, and nothing of the next one."""
        self._interim = False
        self._keep_alive = False
        self.idle_since = 0.0
        self.on_lost: Callable[[Connection], None] | None = None
        """The callback of the connection's holder while the connection is idle."""

    # Methods that the owner calls.

    def begin(
        self,
        data: bytes,
        deadlines: Deadlines,
        on_complete: Callable[[], None] = lambda: None,
        *,
        stream: bool,
        silent: bool = False,
    ) -> Exchange:
        """Send a whole request; `on_complete` is called when the answer's last byte has come in.

        `silent` says that the answer may pause for any time between its head and its end.

        Raises:
            ConnectionBroken: the connection is closed.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionBroken(begun=False)
        exchange = Exchange(self, deadlines, on_complete, stream=stream, silent=silent)
        self._exchange = exchange
        self._message_complete = False
        self._transport.write(data)
        return exchange

    def close(self) -> None:
        """Drop the connection at once; the engine takes this as a disconnected client."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another exchange."""
        return (
            self._exchange is None
            and self._keep_alive
            and self._transport is not None
            and not self._transport.is_closing()
        )

    # Methods that the exchange calls.

    def pause_reading(self) -> None:
        """Stop reading from the peer for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the peer again."""
        if self._transport is not None:
            self._transport.resume_reading()

    # Methods that the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()
            return
        exchange.note_data()
        if self._between_chunks and exchange.pass_on(data):
            return
        self._between_chunks = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
            if not self._message_complete:
                self._fail_exchange()
        # The parser says nothing of the first digits of a chunk's length.
        self._between_chunks = self._between_chunks and data.endswith(b"\r\n")
        if self._message_complete:
            self._between_chunks = False
            self._exchange = None
            self.idle_since = self._loop.time()
            exchange.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail_exchange()
        if self.on_lost is not None:
            self.on_lost(self)

    def _fail_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.fail(ConnectionBroken(begun=exchange.status != 0))

    # Methods that the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._exchange is None:
            return
        if self._interim:
            # This is an interim answer: the real answer follows, under its own head.
            self._exchange.headers.clear()
        else:
            self._exchange.note_headers(status)

    def on_body(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.note_body(data)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_begin(self) -> None:
        if self._message_complete:
            # A second answer to one request is discarded, and the connection is closed.
            self._exchange = None
            self.close()

    def on_message_complete(self) -> None:
        if self._interim:
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._message_complete = True


def has_certificate(transport: asyncio.BaseTransport, digest: bytes) -> bool:
    """Whether the peer has proved that it owns the certificate with this SHA-256."""
    tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True)
    return certificate is not None and sha256(certificate).digest() == digest


class ConnectionPool:
    """Idle keep-alive connections by address; the newest is used first, so that old ones expire."""

    def __init__(self, connect_s: float = 3.0) -> None:
        self._connect_s = connect_s
        self._idle: dict[Address, OrderedDict[Connection, None]] = {}
        self._tls: ssl.SSLContext | None = None

    async def take(self, address: Address, until: float = math.inf) -> Connection:
        """An open connection to `address`, by the time `until` of the event loop's clock.

        Raises:
            ConnectionBroken: no server listens there, the connection takes too long, or the server
                has another certificate than the address says.
        """
        connection = self._take_idle(address)
        return await self._connect(address, until) if connection is None else connection

    def _take_idle(self, address: Address) -> Connection | None:
        loop = asyncio.get_running_loop()
        idle = self._idle.get(address)
        while idle:
            connection, _ = idle.popitem()
            if not idle:
                del self._idle[address]
            connection.on_lost = None
            if connection.reusable and loop.time() - connection.idle_since < IDLE_S_MAX:
                return connection
            connection.close()
        return None

    async def _connect(self, address: Address, until: float) -> Connection:
        loop = asyncio.get_running_loop()
        host, port, *pin = address
        context = self._context() if pin else None
        try:
            async with asyncio.timeout_at(min(until, loop.time() + self._connect_s)):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop), host, port, ssl=context
                )
        except (OSError, TimeoutError):
            raise ConnectionBroken(begun=False) from None
        watch_peer(transport.get_extra_info("socket"), SILENT_S_MAX)
        if pin and not has_certificate(transport, pin[0]):
            connection.close()
            raise ConnectionBroken(begun=False)
        return connection

    def _context(self) -> ssl.SSLContext:
        """Of TLS without authorities: the digest in the address says whom to trust."""
        if self._tls is None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        return self._tls

    def give(self, address: Address, connection: Connection) -> bool:
        """Take a connection whose exchange has ended; True if it can be used again."""
        if not connection.reusable:
            connection.close()
            return False
        self._idle.setdefault(address, OrderedDict())[connection] = None
        # Replicas come and go, and each replica has its own address.
        connection.on_lost = lambda lost: self._forget(address, lost)
        return True

    def _forget(self, address: Address, connection: Connection) -> None:
        idle = self._idle.get(address)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[address]

    def close(self) -> None:
        """Drop every idle connection."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()
