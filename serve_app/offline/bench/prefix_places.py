"""Simulated replicas with prefix caches in virtual time, and Ray's places before them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease
from serve_app.leases.signature import LeaseSigner, new_secret
from serve_app.offline.bench.lease_trials import LocalGrant
from serve_app.offline.simulation.engine import NEVER
from serve_app.offline.simulation.prefix_engine import Node, SharingCall


class DrivenNode:
    """Runs a simulated replica by the timers of the event loop."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._firsts: dict[SharingCall, asyncio.Future[None]] = {}
        self._ends: dict[SharingCall, asyncio.Future[None]] = {}

    def begin(self, call: SharingCall) -> tuple[asyncio.Future[None], asyncio.Future[None]]:
        """Take a call: the futures of its first token and of its end."""
        self._firsts[call] = first = self._loop.create_future()
        self._ends[call] = end = self._loop.create_future()
        self.node.add(call, self._loop.time())
        self._expect()
        return first, end

    def _expect(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        next_s = self.node.engine.next_event_s()
        self._timer = self._loop.call_at(next_s, self._run) if next_s < NEVER else None

    def _run(self) -> None:
        begun, ended = self.node.run(self._loop.time())
        if begun is not None:
            self._firsts.pop(begun).set_result(None)
        for call in ended:
            self._ends.pop(call).set_result(None)
        self._expect()


class RankedPlaces:
    """Grants places as Ray does: the first of a ranking that is free.

    A freed place goes to the request that has waited for longest.
    """

    def __init__(self, addresses: Mapping[str, Address], places: int) -> None:
        """`addresses` by Ray's ids of the replicas."""
        self._addresses = addresses
        self._free = dict.fromkeys(addresses.values(), places)
        self._asking: deque[asyncio.Future[Address]] = deque()
        self._granted = 0

    async def open(self, session: str | None = None) -> LocalGrant:
        """A place on any replica."""
        return await self.ranked(())

    async def ranked(self, ranking: tuple[str, ...]) -> LocalGrant:
        """A place on the best replica that has one; the request waits while there is none."""
        wanted = [self._addresses[name] for name in ranking]
        wanted += sorted(self._free, key=lambda address: -self._free[address])
        address = next((each for each in wanted if self._free[each]), None)
        if address is None:
            turn: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
            self._asking.append(turn)
            address = await turn
        else:
            self._free[address] -= 1
        self._granted += 1
        lease_id = f"lease-{self._granted}"
        return LocalGrant(lease_id, address, LeaseSigner(lease_id, new_secret()))

    def close(self, lease: Lease) -> None:
        """A lease has ended: its place goes to the next request."""
        while self._asking:
            turn = self._asking.popleft()
            if not turn.done():
                turn.set_result(lease.address)
                return
        self._free[lease.address] += 1
