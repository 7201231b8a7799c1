"""The replica's side of leases: which ids may talk to the engine's port, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

IDLE_S_MAX = 5.0
"""What a Router may ask for at most: a Router that died must not hold a place."""


class Lease:
    """One place on this replica: as long as it lives, Ray counts one ongoing request."""

    def __init__(self, idle_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._exchanges = 0
        self._ended = self._loop.create_future()
        self._timer = self._loop.call_later(idle_s, self._end)

    async def wait_ended(self) -> None:
        """Return when the lease has been idle for too long."""
        await self._ended

    def begin_exchange(self) -> None:
        """An HTTP exchange under this lease has begun."""
        self._exchanges += 1
        self._timer.cancel()

    def end_exchange(self) -> None:
        """An HTTP exchange under this lease has ended."""
        self._exchanges -= 1
        if self._exchanges == 0 and not self._ended.done():
            self._timer = self._loop.call_later(self._idle_s, self._end)

    def close(self) -> None:
        """Forget the timer."""
        self._timer.cancel()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


class LeaseTable:
    """The live leases of one replica."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    @contextmanager
    def open(self, lease_id: str, idle_s: float) -> Iterator[Lease]:
        """A lease that lives as long as the block, which should end with `wait_ended`.

        Raises:
            ValueError: the id is in use.
        """
        if lease_id in self._leases:
            raise ValueError("this lease id is in use")
        lease = self._leases[lease_id] = Lease(min(idle_s, IDLE_S_MAX))
        try:
            yield lease
        finally:
            del self._leases[lease_id]
            lease.close()

    def find(self, lease_id: str) -> Lease | None:
        """The live lease with this id."""
        return self._leases.get(lease_id)
