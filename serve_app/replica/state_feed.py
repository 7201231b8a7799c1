"""The replica's side of the state stream: its load and its prefix table, for every Router.

One task looks every `TICK_S` while there are readers, and makes each frame once. A reader that does
not keep up gets a new snapshot in place of the frames that it has missed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Protocol

from serve_app.core.prefix import PrefixChange
from serve_app.leases.load import EngineLoad
from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.leases.state_frames import CHANGES_MAX, render_hello, render_keys, render_load
from serve_app.leases.state_stream import TOKEN_HEADER
from serve_app.replica.asgi import Receive, Scope, Send
from serve_app.replica.engine_stats import EngineStats
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.prefills import PrefillWatch

TICK_S = 0.1
"""The shortest time between two frames of one kind."""
BEAT_S = 0.5
"""The longest time between two frames, so that Routers notice a broken network in two seconds."""
READERS_MAX = 256
HELD_BYTES_MAX = 256 << 10
"""The most bytes of changes that are held for a reader; a snapshot is shorter than more of them."""


class KeyTable(Protocol):
    """The keys of an engine's prefix cache."""

    def drain(self) -> list[PrefixChange] | None:
        """What has changed since the last call; None: too much, send a snapshot instead."""
        ...

    def snapshot(self) -> list[PrefixChange]:
        """Every key."""
        ...


class NoKeys:
    """The table of a replica that is not chosen by its prefix cache."""

    def drain(self) -> list[PrefixChange]:
        """Nothing changes."""
        return []

    def snapshot(self) -> list[PrefixChange]:
        """There are no keys."""
        return []


class StateReader:
    """One Router that listens, and what it has not been sent yet."""

    def __init__(self, epoch: int) -> None:
        self._hello, self._load = render_hello(epoch), b""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.lacks_snapshot = True
        self.closed = False
        self._news = asyncio.Event()

    def close(self) -> None:
        """Nothing more is sent."""
        self.closed = True
        self._news.set()

    def offer_load(self, frame: bytes) -> None:
        """The newest load takes the place of an older one."""
        self._load = frame
        self._news.set()

    def offer_changes(self, frame: bytes) -> None:
        """The next changes of the table."""
        if self.lacks_snapshot:
            return
        self._held.append(frame)
        self._held_bytes += len(frame)
        if self._held_bytes > HELD_BYTES_MAX:
            self.miss()
        self._news.set()

    def miss(self) -> None:
        """Frames are lost: the reader needs a snapshot."""
        self._held = []
        self._held_bytes = 0
        self.lacks_snapshot = True
        self._news.set()

    async def wait(self) -> None:
        """Return when there is something to send."""
        await self._news.wait()

    def take(self, snapshot: Callable[[], bytes]) -> bytes:
        """What is to be sent now."""
        self._news.clear()
        if self.lacks_snapshot:
            self._held = [snapshot()]
            self.lacks_snapshot = False
        frames = [self._hello, *self._held, self._load]
        self._hello, self._load, self._held, self._held_bytes = b"", b"", [], 0
        return b"".join(frames)


class StateFeed:
    """Answers the Routers that read this replica's state."""

    def __init__(self, read: Callable[[], ReplicaLoad], table: KeyTable | None = None) -> None:
        self.token = secrets.token_hex(16)
        """Opens the stream; Ray carries it to the Routers."""
        self._read = read
        self._table: KeyTable = NoKeys() if table is None else table  # An empty table is false.
        self._epoch = secrets.randbits(64)
        self._version = 0
        self._readers: set[StateReader] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The stream, until the reader leaves."""
        if not self._may_read(scope):
            await _refuse(send, 403)
        elif self._closed or len(self._readers) >= READERS_MAX:
            await _refuse(send, 503)
        else:
            await self._serve(receive, send)

    def _may_read(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == TOKEN_HEADER), b"")
        return compare_digest(given, self.token.encode())

    async def _serve(self, receive: Receive, send: Send) -> None:
        kind = (b"content-type", b"application/octet-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        reader = StateReader(self._epoch)
        reader.offer_load(render_load(self._read()))
        self._readers.add(reader)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        parts = [
            asyncio.create_task(self._send(reader, send)),
            asyncio.create_task(_wait_left(receive)),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._readers.discard(reader)
            for part in parts:
                part.cancel()

    async def _send(self, reader: StateReader, send: Send) -> None:
        while not reader.closed:
            await reader.wait()
            body = reader.take(self._snapshot)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def close(self) -> None:
        """End all streams: the replica ends, and a server does not end answers by itself."""
        self._closed = True
        for reader in self._readers:
            reader.close()

    def _snapshot(self) -> bytes:
        # The other readers get the changes first, because the snapshot has them already.
        self._pass_changes()
        return render_keys(self._version, self._table.snapshot()[:CHANGES_MAX], whole=True)

    async def _tick(self) -> None:
        """Look for news until the last reader has left."""
        last, beats = b"", 0
        try:
            while self._readers:
                await asyncio.sleep(TICK_S)
                self._pass_changes()
                load, beats = render_load(self._read()), beats + 1
                if load != last or beats * TICK_S >= BEAT_S:
                    last, beats = load, 0
                    for reader in self._readers:
                        reader.offer_load(load)
        finally:
            self._ticking = None

    def _pass_changes(self) -> None:
        changes = self._table.drain()
        if changes is None or len(changes) > CHANGES_MAX:
            self._version = _next(self._version)
            for reader in self._readers:
                reader.miss()
        elif changes:
            self._version = _next(self._version)
            self._pass(render_keys(self._version, changes, whole=False))

    def _pass(self, frame: bytes) -> None:
        for reader in self._readers:
            reader.offer_changes(frame)


def _next(version: int) -> int:
    """Versions fit in 32 bits; a Router whose number jumps to 0 asks for a snapshot."""
    return (version + 1) & 0xFFFFFFFF


async def _wait_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int) -> None:
    headers: Sequence[tuple[bytes, bytes]] = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def read_load(
    leases: LeaseTable, stats: EngineStats | None, prefills: PrefillWatch | None = None
) -> ReplicaLoad:
    """The engine's own numbers, or the calls of this replica if the engine has none."""
    engine = None if stats is None else stats.read()
    engine = engine or EngineLoad(leases.exchanges, 0, None)
    load = ReplicaLoad(
        running=engine.running, queued=engine.queued, kv_used_ratio=engine.kv_used_ratio
    )
    return load if prefills is None else prefills.complete(load)
