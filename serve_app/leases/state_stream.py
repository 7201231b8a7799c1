"""The state streams of a tier's replicas, as one Router reads them.

A stream is in one of two states, and starts as lost:

lost     nothing that the replica has said counts, and the Router connects again and again
fresh    its last bytes came within `SILENT_S_MAX`

    HELLO                        lost -> fresh
    silence, an end, a bad byte  fresh -> lost

A replica sends its load at least twice a second, so a silent replica has a broken network or a
blocked loop. A replica that sends nonsense, or too much, costs a Router one connection now and
then.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import suppress
from typing import Protocol, cast

import httptools

from serve_app.core.peer_watch import SILENT_S_MAX as UNACKED_S_MAX
from serve_app.core.peer_watch import watch_peer
from serve_app.leases.board import ReplicaBoard, Seat
from serve_app.leases.http1 import has_certificate
from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.leases.state_frames import FrameReader, FramesGarbled, Hello, Keys

STATE_PATH = "/serve-app/state"
"""A GET to this path, with a reader's token, is answered with the stream."""

TOKEN_HEADER = b"x-reader-token"

SILENT_S_MAX = 2.0
"""How long what a replica has said counts without a further word."""

CONNECT_S = 2.0
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
STEADY_S = 10.0
"""A stream that has lasted for longer starts its backoff anew."""

BURST_BYTES = 4 << 20
BYTES_PER_S_MAX = 1 << 20
"""A replica that sends more than a burst and this rate is broken. A thousand calls a second that
each bring twenty new keys make a quarter of the rate; a snapshot is at most 240 KB."""


class StateListener(Protocol):
    """Takes what the replicas of a tier tell, by Ray's ids of them."""

    def note_load(self, replica: str, seat: Seat, load: ReplicaLoad) -> None:
        """A replica tells its load."""
        ...

    def note_keys(self, replica: str, epoch: int, keys: Keys) -> bool:
        """A replica tells the keys of its prefix table; False if keys before these are missing."""
        ...

    def note_lost(self, replica: str, seat: Seat) -> None:
        """What the replica has told counts no longer."""
        ...


class StateStreams:
    """One stream for each replica of one tier."""

    def __init__(self, board: ReplicaBoard, listener: StateListener) -> None:
        self._board, self._listener = board, listener
        self._streams: dict[str, ReplicaStream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def fresh(self) -> int:
        """The replicas whose streams are fresh."""
        return sum(stream.fresh for stream in self._streams.values())

    def start(self) -> None:
        """Begin to read, in the running event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._board.listen(self._take_soon)
            self._take()

    def close(self) -> None:
        """End all streams."""
        self._board.listen(None)
        self._loop = None
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def _take_soon(self) -> None:
        """The board has changed; in any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # The loop has just been closed: the Router ends.
                loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        if self._loop is None:
            return
        seats = self._board.seats
        for name, stream in list(self._streams.items()):
            if seats.get(name) != stream.seat:
                self._streams.pop(name).close()
        for name, seat in seats.items():
            if name not in self._streams:
                self._streams[name] = ReplicaStream(name, seat, self._listener)


class ReplicaStream:
    """The stream of one replica, which is opened again whenever it breaks."""

    def __init__(self, name: str, seat: Seat, listener: StateListener) -> None:
        self.seat = seat
        self._name, self._listener = name, listener
        self._open: StateConnection | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def fresh(self) -> bool:
        """Whether what the replica has told counts."""
        return self._open is not None and self._open.epoch is not None

    def close(self) -> None:
        """The replica is gone, or the Router ends."""
        self._task.cancel()
        if self._open is not None:
            self._open.abort()
        self._listener.note_lost(self._name, self.seat)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S_MIN
        while True:
            began = loop.time()
            with suppress(OSError, TimeoutError):
                await self._read()
            if loop.time() - began > STEADY_S:
                backoff_s = BACKOFF_S_MIN
            # Chance keeps Routers apart that have lost a replica in the same moment.
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # no secret
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _read(self) -> None:
        """Open the stream, and return when it is lost.

        Raises:
            OSError: the replica cannot be reached.
            TimeoutError: the connection takes too long.
        """
        host, port, *pin = self.seat.address
        loop = asyncio.get_running_loop()
        context = build_context() if pin else None
        async with asyncio.timeout(CONNECT_S):
            transport, connection = await loop.create_connection(
                lambda: StateConnection(self._name, self.seat, self._listener),
                host,
                port,
                ssl=context,
            )
        watch_peer(transport.get_extra_info("socket"), UNACKED_S_MAX)
        self._open = connection
        try:
            if not pin or has_certificate(transport, pin[0]):
                connection.ask()
                await connection.lost
        finally:
            self._open = None
            connection.abort()
            self._listener.note_lost(self._name, self.seat)


def build_context() -> ssl.SSLContext:
    """TLS without authorities: the digest in the seat says whom to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class StateConnection(asyncio.Protocol):
    """One connection that carries one stream; `lost` is done when nothing more will come."""

    def __init__(self, name: str, seat: Seat, listener: StateListener) -> None:
        self._name, self._seat, self._listener = name, seat, listener
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._frames = FrameReader()
        self._began = self._heard_at = self._loop.time()
        self._bytes = 0
        self._look: asyncio.TimerHandle | None = None
        self.epoch: int | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def ask(self) -> None:
        """Ask for the stream."""
        if self._transport is None:
            return
        path, token = STATE_PATH.encode(), self._seat.token.encode()
        self._transport.write(
            b"GET %b HTTP/1.1\r\nhost: engine\r\n%b: %b\r\n\r\n" % (path, TOKEN_HEADER, token)
        )
        self._look = self._loop.call_later(SILENT_S_MAX, self._check)

    def abort(self) -> None:
        """Drop the connection; nothing more is told of it."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        if self._look is not None:
            self._look.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    def _check(self) -> None:
        left_s = self._heard_at + SILENT_S_MAX - self._loop.time()
        if left_s <= 0:
            self.abort()
        else:
            self._look = self._loop.call_later(left_s, self._check)

    # Methods that the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end()

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        self._heard_at = self._loop.time()
        self._bytes += len(data)
        allowed = BURST_BYTES + BYTES_PER_S_MAX * (self._heard_at - self._began)
        try:
            if self._bytes > allowed:
                raise FramesGarbled
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, FramesGarbled):
            self.abort()

    # Methods that the parser calls.

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self.abort()

    def on_body(self, body: bytes) -> None:
        if self.lost.done():
            return
        try:
            for frame in self._frames.feed(body):
                self._take(frame)
        except FramesGarbled:
            self.abort()

    def on_message_complete(self) -> None:
        self.abort()

    def _take(self, frame: Hello | ReplicaLoad | Keys) -> None:
        if isinstance(frame, Hello):
            if self.epoch is not None:
                raise FramesGarbled
            self.epoch = frame.epoch
        elif self.epoch is None:
            raise FramesGarbled
        elif isinstance(frame, Keys):
            if not self._listener.note_keys(self._name, self.epoch, frame):
                raise FramesGarbled
        else:
            self._listener.note_load(self._name, self._seat, frame)
