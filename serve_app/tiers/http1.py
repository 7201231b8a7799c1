"""A lean HTTP/1.1 client connection for the data plane.

Every token of every stream passes here. A general client (httpx, aiohttp) costs more CPU for one
call than the rest of the Router together (docs/bench-log.md); this one parses with httptools, hands
body bytes on as they come, and knows only what the engine's server needs: keep-alive,
Content-Length and chunked bodies, deadlines, back-pressure.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

BUFFER_BYTES_MAX = 1 << 20
"""Body bytes a connection holds for a slow client before it stops reading from the engine."""

IDLE_S_MAX = 30.0
"""Idle connections older than this are not used again; the engine's server keeps them longer."""

Headers = list[tuple[bytes, bytes]]
Address = tuple[str, int]


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


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time: `request`, then `head`, then `read` until b''."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._paused = False
        self._error: Exception | None = None
        self._in_exchange = False
        self._headers_done = False
        self._done = False
        self._keep_alive = False
        self._deadline = self._total_deadline = 0.0
        self._limit = ("total", 0.0)
        self._total_s = self._gap_s = 0.0
        self.status = 0
        self.headers: Headers = []
        self.idle_since = 0.0

    # What the owner calls.

    def request(self, data: bytes, *, first_byte_s: float, gap_s: float, total_s: float) -> None:
        """Send a whole request; the three deadlines are in seconds from now."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionBroken(begun=False)
        self.status, self.headers = 0, []
        self._in_exchange, self._headers_done, self._done = True, False, False
        now = self._loop.time()
        self._total_s, self._gap_s = total_s, gap_s
        self._total_deadline = now + total_s
        self._expect("first byte", first_byte_s, now)
        self._transport.write(data)

    async def head(self) -> None:
        """Wait until `status` and `headers` are known.

        Raises:
            ConnectionBroken: the peer went away first.
            ExchangeTimeout: no head came in time.
        """
        while not self._headers_done:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """The body bytes that have come since the last call, b'' after the last ones.

        Raises:
            ConnectionBroken: the peer went away in the middle.
            ExchangeTimeout: the next bytes did not come in time.
        """
        while not self._chunks:
            if self._done:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def finish(self) -> bool:
        """End the exchange; True if the connection can carry another one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        clean = self._done and self._keep_alive and not self._chunks and self._error is None
        self._in_exchange = False
        if not clean:
            self.close()
            return False
        self.idle_since = self._loop.time()
        return self.alive

    def close(self) -> None:
        """Drop the connection at once; the engine takes this as a disconnected client."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def alive(self) -> bool:
        """Whether the connection is open."""
        return self._transport is not None and not self._transport.is_closing()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._in_exchange:
            self.close()
            return
        self._expect("gap", self._gap_s, self._loop.time())
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(ConnectionBroken(begun=self.status != 0))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._in_exchange and not self._done:
            self._fail(ConnectionBroken(begun=self.status != 0))
        self._transport = None

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headers_done = True
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > BUFFER_BYTES_MAX and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        self._done = True
        self._wake()

    # Waiting.

    def _wait(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _expect(self, limit: str, seconds: float, now: float) -> None:
        deadline = now + seconds
        if deadline < self._total_deadline:
            self._deadline, self._limit = deadline, (limit, seconds)
        else:
            self._deadline, self._limit = self._total_deadline, ("total", self._total_s)
        # Deadlines mostly move away from the timer, which then re-arms itself when it fires: moving
        # it for every piece of data would cost more than parsing the piece.
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        if self._paused:
            # The client is slow, not the engine.
            self._deadline = min(self._loop.time() + self._gap_s, self._total_deadline)
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
            return
        self._timer = None
        self._fail(ExchangeTimeout(*self._limit))
        self.close()


class ConnectionPool:
    """Idle keep-alive connections by address; the last one used goes first, so the rest age out."""

    def __init__(self, connect_s: float = 3.0) -> None:
        self._connect_s = connect_s
        self._idle: dict[Address, list[Connection]] = {}

    async def take(self, address: Address) -> Connection:
        """An open connection to `address`.

        Raises:
            ConnectionBroken: nobody listens there.
        """
        loop = asyncio.get_running_loop()
        idle = self._idle.get(address, [])
        while idle:
            connection = idle.pop()
            if connection.alive and loop.time() - connection.idle_since < IDLE_S_MAX:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(lambda: Connection(loop), *address)
        except (OSError, TimeoutError):
            raise ConnectionBroken(begun=False) from None
        self._forget_dead()
        return connection

    def _forget_dead(self) -> None:
        """Replicas come and go, and each has an address of its own."""
        for address, connections in list(self._idle.items()):
            connections[:] = [connection for connection in connections if connection.alive]
            if not connections:
                del self._idle[address]

    def give(self, address: Address, connection: Connection) -> bool:
        """End the exchange on `connection`; True if it ended well and the connection was kept."""
        kept = connection.finish()
        if kept:
            self._idle.setdefault(address, []).append(connection)
        return kept

    def close(self) -> None:
        """Drop every idle connection."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
