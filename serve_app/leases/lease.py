"""A lease is one place on one replica; `IdleLeases` are places that no call uses at the moment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

from serve_app.core.headers import Headers
from serve_app.leases.http1 import Address
from serve_app.leases.order import Claim


class Grant(Protocol):
    """A place on a replica."""

    @property
    def lease_id(self) -> str:
        """The id that opens the replica's engine app."""
        ...

    @property
    def address(self) -> Address:
        """Host and port of the replica's engine app."""
        ...

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The lease header of one request; see `LeaseSigner`."""
        ...


class Opener(Protocol):
    """Asks Ray for places."""

    async def __call__(self, session: str | None = None) -> Grant:
        """A place on a replica of Ray's choice; Ray may choose the replica by the session.

        Raises:
            GatewayError: Ray refused.
        """
        ...


class RankedOpener(Protocol):
    """Asks Ray for places on certain replicas."""

    async def __call__(self, ranking: tuple[str, ...]) -> Grant:
        """A place on the first replica of the ranking (Ray's ids) that has one, otherwise on any.

        Raises:
            GatewayError: Ray refused.
        """
        ...


class Closer(Protocol):
    """Reports to a replica that a lease will not be used any more."""

    def __call__(self, lease: Lease) -> None:
        """Begin to end the lease. If the replica cannot be reached, the lease expires there."""
        ...


class Lease:
    """One place on one replica, used by one call at a time."""

    __slots__ = (
        "_grant",
        "calls",
        "charged",
        "granted_at",
        "has_successor",
        "idle_since",
        "on_ended",
        "used_since",
    )

    def __init__(self, grant: Grant, now: float) -> None:
        self._grant = grant
        self.granted_at = now
        self.idle_since = now
        self.used_since = now
        """When the call that uses the place got it."""
        self.calls = 0
        """Calls that have used the place."""
        self.has_successor = False
        """Whether another place has been granted in its stead."""
        self.charged: Claim | None = None
        """The claim of the call that uses the place, if the call had to wait for the place."""
        self.on_ended: Callable[[Headers], None] | None = None
        """Takes the headers of the replica's answer to the lease's end; none without an answer."""

    @property
    def address(self) -> Address:
        """Host and port of the replica's engine app."""
        return self._grant.address

    @property
    def lease_id(self) -> str:
        """The id that the engine app asks for."""
        return self._grant.lease_id

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The lease header of one request."""
        return self._grant.sign(path, draft_tokens, body_bytes)


class IdleLeases:
    """Places that no call uses: the newest first, or the newest of a given replica."""

    def __init__(self) -> None:
        self._all: OrderedDict[Lease, None] = OrderedDict()
        self._at: dict[Address, OrderedDict[Lease, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._all)

    @property
    def oldest(self) -> Lease | None:
        """The place that has been idle for longest."""
        return next(iter(self._all), None)

    def add(self, lease: Lease) -> None:
        """A place has become idle."""
        self._all[lease] = None
        self._at.setdefault(lease.address, OrderedDict())[lease] = None

    def pop(self) -> Lease:
        """Take the newest place."""
        lease = next(reversed(self._all))
        self.remove(lease)
        return lease

    def addresses(self) -> Iterator[Address]:
        """The replicas that have an idle place."""
        return iter(self._at)

    def pop_at(self, address: Address) -> Lease | None:
        """Take the newest place on a replica, None if the replica has no idle place."""
        here = self._at.get(address)
        if not here:
            return None
        lease = next(reversed(here))
        self.remove(lease)
        return lease

    def pop_elsewhere(self, address: Address) -> Lease | None:
        """Take a place on another replica, None if there is none."""
        for here in self._at:
            if here != address:
                return self.pop_at(here)
        return None

    def pop_all_at(self, address: Address) -> list[Lease]:
        """Take all places on a replica."""
        leases = list(self._at.get(address, ()))
        for lease in leases:
            self.remove(lease)
        return leases

    def discard(self, lease: Lease) -> bool:
        """Take this place if it is here; whether it was."""
        if lease not in self._all:
            return False
        self.remove(lease)
        return True

    def remove(self, lease: Lease) -> None:
        """Take this place."""
        del self._all[lease]
        here = self._at[lease.address]
        del here[lease]
        if not here:
            del self._at[lease.address]
