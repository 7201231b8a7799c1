"""Simulated replicas in virtual time: their engines, and Ray's places before the engines."""

from __future__ import annotations

import asyncio
from collections import deque

from serve_app.core.errors import TierOverloaded
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease
from serve_app.leases.signature import LeaseSigner, new_secret
from serve_app.offline.bench.lease_trials import LocalGrant, build_addresses
from serve_app.offline.simulation.engine import NEVER, EngineTiming, SimCall, SimEngine


class DrivenEngine:
    """Runs a simulated engine by the timers of the event loop."""

    def __init__(self, timing: EngineTiming) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = SimEngine(timing, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._firsts: dict[SimCall, asyncio.Future[None]] = {}
        self._ends: dict[SimCall, asyncio.Future[None]] = {}

    def begin(self, call: SimCall) -> tuple[asyncio.Future[None], asyncio.Future[None]]:
        """Take a call: the futures of its first token and of its end."""
        self._firsts[call] = first = self._loop.create_future()
        self._ends[call] = end = self._loop.create_future()
        self._engine.add(call, self._loop.time())
        self._expect()
        return first, end

    def _expect(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        next_s = self._engine.next_event_s()
        self._timer = self._loop.call_at(next_s, self._run) if next_s < NEVER else None

    def _run(self) -> None:
        prefilled = next(iter(self._engine.prefilling), None)
        ended = self._engine.run(self._loop.time())
        if prefilled is not None and prefilled.first_token_s < NEVER:
            self._firsts.pop(prefilled).set_result(None)
        for call in ended:
            self._ends.pop(call).set_result(None)
        self._expect()


class SimulatedPlaces:
    """Grants places as Ray does: so many a replica, a bounded queue, and then refusals."""

    def __init__(self, replicas: int, places: int, queued_max: int) -> None:
        self._free = dict.fromkeys(build_addresses(replicas, 1), places)
        self._queued_max = queued_max
        self._asking: deque[asyncio.Future[Address]] = deque()
        self._granted = 0

    async def open(self, session: str | None = None) -> LocalGrant:
        """A place; the request waits while there is none.

        Raises:
            TierOverloaded: too many requests wait already.
        """
        address = max(self._free, key=lambda address: self._free[address])
        if self._free[address]:
            self._free[address] -= 1
        elif len(self._asking) >= self._queued_max:
            raise TierOverloaded(retry_after_s=5)
        else:
            turn: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
            self._asking.append(turn)
            address = await turn
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

    @property
    def replicas(self) -> list[Address]:
        """The addresses of the replicas."""
        return list(self._free)
