"""How many lines run at a time: as many as the calls of clients leave room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serve_app.core.ranks import BATCH_RANK, CLIENT_RANK

LIMIT_FIRST = 4


@dataclass(eq=False, slots=True)
class _Waiting:
    find_rank: Callable[[], int]
    place: asyncio.Future[None]


def _last() -> int:
    return BATCH_RANK


class LineGate:
    """The places for lines of one Router.

    The number of places follows the tiers as a sender of TCP follows the network: it grows slowly
    while no call waits, and halves while calls wait. One place always stays, because a line waits
    behind every call of a client anyway. Lines of a lower rank come first, and a line with the rank
    of clients' calls may have any of the places.
    """

    def __init__(self, crowded: Callable[[], bool]) -> None:
        """`crowded` says whether calls wait for a place."""
        self._crowded = crowded
        self._waiting: list[_Waiting] = []
        self.limit_max = LIMIT_FIRST
        self.limit = LIMIT_FIRST
        self.busy = 0

    @property
    def waiting(self) -> int:
        """The lines that wait for a place."""
        return len(self._waiting)

    def adjust(self, limit_max: int) -> None:
        """Change the number of places by the load of the moment."""
        self.limit_max = limit_max
        if self._crowded():
            self.limit = max(1, self.limit // 2)
        else:
            self.limit = min(limit_max, self.limit + max(1, self.limit // 4))
        self._admit()

    @asynccontextmanager
    async def place(self, find_rank: Callable[[], int] = _last) -> AsyncIterator[None]:
        """Hold a place. `find_rank` gives the rank of the line, which may fall while it waits."""
        waiting = _Waiting(find_rank, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._admit()
        try:
            await waiting.place
            yield
        finally:
            self._leave(waiting)

    def _admit(self) -> None:
        while self._waiting and self.busy < max(self.limit, self.limit_max):
            ranks = [waiting.find_rank() for waiting in self._waiting]
            rank = min(ranks)
            if rank > CLIENT_RANK and self.busy >= self.limit:
                return
            waiting = self._waiting.pop(ranks.index(rank))
            self.busy += 1
            if not waiting.place.cancelled():
                waiting.place.set_result(None)

    def _leave(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        else:
            self.busy -= 1
            self._admit()
