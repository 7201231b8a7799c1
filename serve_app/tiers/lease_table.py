"""The replica's side of leases: which ids may talk to the engine's port, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

EXPIRY_S = 5.0
"""How long a lease lives without an exchange. Routers end leases themselves, much sooner; this is
for a Router that died, and long enough for one whose event loop lags to find its leases alive."""


class Lease:
    """One place on this replica: as long as it lives, Ray counts one ongoing request."""

    def __init__(self, expiry_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._expiry_s = expiry_s
        self.exchanges = 0
        self._ended = self._loop.create_future()
        self._timer = self._loop.call_later(expiry_s, self.end)

    async def wait_ended(self) -> None:
        """Return when the lease has been ended, or has been idle for too long."""
        await self._ended

    def end(self) -> None:
        """Nobody will use the lease any more."""
        self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(None)

    def begin_exchange(self) -> None:
        """An HTTP exchange under this lease has begun."""
        self.exchanges += 1
        self._timer.cancel()

    def end_exchange(self) -> None:
        """An HTTP exchange under this lease has ended."""
        self.exchanges -= 1
        if self.exchanges == 0 and not self._ended.done():
            self._timer = self._loop.call_later(self._expiry_s, self.end)


class LeaseTable:
    """The live leases of one replica."""

    def __init__(self, expiry_s: float = EXPIRY_S) -> None:
        self._expiry_s = expiry_s
        self._leases: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def exchanges(self) -> int:
        """HTTP exchanges in progress, under all leases."""
        return sum(lease.exchanges for lease in self._leases.values())

    @contextmanager
    def open(self, lease_id: str) -> Iterator[Lease]:
        """A lease that lives as long as the block, which should end with `wait_ended`.

        Raises:
            ValueError: the id is in use.
        """
        if lease_id in self._leases:
            raise ValueError("this lease id is in use")
        lease = self._leases[lease_id] = Lease(self._expiry_s)
        try:
            yield lease
        finally:
            del self._leases[lease_id]
            lease.end()

    def find(self, lease_id: str) -> Lease | None:
        """The live lease with this id."""
        return self._leases.get(lease_id)
