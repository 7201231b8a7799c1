"""A tier of real replica doors in this process: real leases and HTTP, a scripted engine, no Ray."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from serve_app.core.errors import TierUnavailable
from serve_app.leases.answers import Refusal
from serve_app.leases.board import ReplicaBoard, Seat
from serve_app.leases.http1 import Address
from serve_app.leases.signature import LeaseSigner, new_secret
from serve_app.replica.asgi import Message, Receive, Send
from serve_app.replica.engine_http import EngineHTTPServer, LeasedApp
from serve_app.replica.engine_stats import EngineStats
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.prefills import PrefillWatch
from serve_app.replica.state_feed import KeyTable, StateFeed, read_load
from tests.fakes import FakeGrant


@dataclass
class Stats:
    """What vLLM's scheduler says of itself."""

    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    kv_cache_usage: float = 0.0


class Replica:
    """One replica: an engine that answers when it is allowed to, behind its door."""

    def __init__(self, *, tls: bool = False, table: KeyTable | None = None) -> None:
        self.leases = LeaseTable()
        self.stats = EngineStats()
        self.released = asyncio.Event()
        self.released.set()
        self.breaks = False
        self.status = 200
        self.refusal: Refusal | None = None
        self.asked: list[str] = []
        self.prefills = PrefillWatch()
        self.feed = StateFeed(partial(read_load, self.leases, self.stats, self.prefills), table)
        door = LeasedApp(
            self,
            self.leases,
            self.stats,
            refusal=lambda: self.refusal,
            prefills=self.prefills,
            feed=self.feed,
        )
        self._server = EngineHTTPServer(door, "127.0.0.1", tls=tls)
        self._holding: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        message: Message = await receive()
        assert message["type"] == "http.request"
        self.asked.append(scope["path"])
        headers = [(b"content-type", b"text/event-stream")]
        if self.status != 200:
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": b"/usr/lib/secret"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.released.wait()
        if self.breaks:
            raise ConnectionError
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    @property
    def address(self) -> Address:
        return self._server.address

    @property
    def seat(self) -> Seat:
        """What Ray would carry to the Routers."""
        return Seat(self.address, self.feed.token)

    async def start(self) -> None:
        await self._server.wait_started()

    async def stop(self) -> None:
        """Die: the port closes, and with it every connection."""
        for task in self._holding:
            task.cancel()
        self.feed.close()
        await self._server.close()

    def grant(self) -> FakeGrant:
        """A lease, held until it is ended as any other."""
        lease_id, secret = secrets.token_hex(8), new_secret()
        task = asyncio.create_task(self._hold(lease_id, secret))
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)
        return FakeGrant(lease_id, self.address, LeaseSigner(lease_id, secret))

    async def _hold(self, lease_id: str, secret: bytes) -> None:
        with self.leases.open(lease_id, secret) as lease:
            await lease.wait_ended()


class Replicas:
    """Grants places on the replicas in turn; waits, as Ray does, while there are none."""

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self.board = ReplicaBoard()
        self.granted = 0
        self.sessions: list[str | None] = []
        self.refusing = False

    async def __call__(self, session: str | None = None) -> FakeGrant:
        if self.refusing:
            raise TierUnavailable(retry_after_s=2)
        while not self.replicas:
            await asyncio.sleep(0.005)
        self.sessions.append(session)
        grant = self.replicas[self.granted % len(self.replicas)].grant()
        self.granted += 1
        await asyncio.sleep(0)
        return grant

    def publish(self) -> None:
        """Say which replicas there are, as Ray's request router does."""
        self.board.publish({f"{each.address[1]}": each.seat for each in self.replicas})

    async def add(self) -> Replica:
        """One more replica."""
        replica = Replica()
        await replica.start()
        self.replicas.append(replica)
        self.publish()
        return replica

    async def remove(self, replica: Replica) -> None:
        """Kill one."""
        self.replicas.remove(replica)
        self.publish()
        await replica.stop()


@asynccontextmanager
async def running(count: int = 1) -> AsyncIterator[Replicas]:
    """So many replicas, and whatever is added, until the end of the block."""
    tier = Replicas()
    for _ in range(count):
        await tier.add()
    try:
        yield tier
    finally:
        for replica in list(tier.replicas):
            await tier.remove(replica)
