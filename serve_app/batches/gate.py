"""How many lines run at a time: as many as the calls of clients leave room for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LIMIT_FIRST = 4


class LineGate:
    """The places for lines of one Router.

    The number of places follows the tiers as a sender of TCP follows the network: it grows slowly
    while no call waits, and halves while calls wait. One place always stays, because a line waits
    behind every call of a client anyway.
    """

    def __init__(self, crowded: Callable[[], bool]) -> None:
        """`crowded` says whether calls wait for a place."""
        self._crowded = crowded
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.limit = LIMIT_FIRST
        self.busy = 0

    @property
    def waiting(self) -> int:
        """The lines that wait for a place."""
        return len(self._waiting)

    def adjust(self, limit_max: int) -> None:
        """Change the number of places by the load of the moment."""
        if self._crowded():
            self.limit = max(1, self.limit // 2)
        else:
            self.limit = min(limit_max, self.limit + max(1, self.limit // 4))
        self._admit()

    async def __aenter__(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            self._withdraw(place)
            raise

    async def __aexit__(self, *_: object) -> None:
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.busy < self.limit:
            self.busy += 1
            self._waiting.popleft().set_result(None)

    def _withdraw(self, place: asyncio.Future[None]) -> None:
        if place in self._waiting:
            self._waiting.remove(place)
        elif place.done() and not place.cancelled():
            self.busy -= 1
            self._admit()
