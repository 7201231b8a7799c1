"""What the replicas of one tier have told of their state, as one Router knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from serve_app.leases.board import Seat
from serve_app.leases.http1 import Address
from serve_app.leases.load import EngineLoad, EngineLoads
from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.leases.prefix_index import PrefixIndex
from serve_app.leases.state_frames import Keys


class ReplicaStates:
    """The newest load and the keys of each replica, by Ray's ids of the replicas."""

    def __init__(self, engines: EngineLoads) -> None:
        """`engines` sums up the loads."""
        self._engines = engines
        self._loads: dict[str, ReplicaLoad] = {}
        self._names: dict[Address, str] = {}
        self.index = PrefixIndex()

    @property
    def loads(self) -> Mapping[str, ReplicaLoad]:
        """The loads of the replicas whose streams are fresh."""
        return self._loads

    def name_at(self, address: Address) -> str | None:
        """Ray's id of the replica at this address, None while its stream is lost."""
        return self._names.get(address)

    def note_load(self, replica: str, seat: Seat, load: ReplicaLoad) -> None:
        """A replica tells its load."""
        self._loads[replica] = load
        self._names[seat.address] = replica
        told = EngineLoad(load.running, load.queued, load.kv_used_ratio)
        self._engines.note(seat.address, told, asyncio.get_running_loop().time())

    def note_keys(self, replica: str, epoch: int, keys: Keys) -> bool:
        """A replica tells the keys of its prefix table; False if keys before these are missing."""
        if keys.whole:
            self.index.restart(replica, epoch, keys.version, keys.changes)
            return True
        return self.index.apply(replica, epoch, keys.version, keys.changes)

    def note_lost(self, replica: str, seat: Seat) -> None:
        """Nothing is known of the replica's cache. Its load counts for another two seconds in the
        sums, because a stream may come back at once."""
        self._loads.pop(replica, None)
        self._names.pop(seat.address, None)
        self.index.drop(replica)
