"""What a tier is to those who send calls to it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from serve_app.core.deadlines import Deadlines
from serve_app.core.load import TierLoad
from serve_app.leases.client import UpstreamRequest


class Answer(Protocol):
    """An engine's answer: head known, body read piece by piece."""

    status: int
    """Below 500: an engine's own failure is an error of the exchange."""
    headers: list[tuple[bytes, bytes]]

    async def read(self) -> bytes:
        """The next body bytes, b'' after the last ones."""
        ...


class Tier(Protocol):
    """What answers a call: the replicas of one model."""

    down: bool
    """Whether no replica can be reached."""

    def load(self) -> TierLoad:
        """What is known of its load now, without asking anybody."""
        ...

    def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request; closing the block ends it on the replica as well."""
        ...
