"""The interface of a tier for the modules that send calls to it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from serve_app.core.chunks import Take
from serve_app.core.deadlines import Deadlines
from serve_app.core.load import TierLoad
from serve_app.core.residence import Residence
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.prefix_choice import Prefix


class Answer(Protocol):
    """An engine's answer: its head is known, its body is read piece by piece."""

    status: int
    """Below 500: an engine's own failure is an error of the exchange."""
    headers: list[tuple[bytes, bytes]]

    async def read(self) -> bytes:
        """The next body bytes, b'' after the last ones."""
        ...

    def divert(self, take: Take) -> None:
        """Offer whole chunks to `take` while a `read` waits; what it leaves is read as before.

        An answer whose bytes do not come from a connection, or that are looked at, offers none.
        """
        ...


class TierCache(Protocol):
    """The prefix caches of a tier's replicas."""

    def residence(self, prefix: Prefix) -> Residence:
        """What they save of a prompt, in seconds of a replica."""
        ...


class Tier(Protocol):
    """The replicas of one model, which answer calls."""

    @property
    def down(self) -> bool:
        """Whether calls go to other tiers, if they may."""
        ...

    def load(self) -> TierLoad:
        """The known load of the tier at this moment, without a request to any replica."""
        ...

    def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request; closing the block also ends the request on the replica."""
        ...
