"""The replica's side of leases: the ids that may use the engine's port, and their expiry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from serve_app.core.call import Usage
from serve_app.leases.signature import LeaseVerifier
from serve_app.replica.meter import Meter

EXPIRY_S = 5.0
"""How long a lease lives without an exchange. Routers end leases much sooner. The expiry is for the
leases of a dead Router, and long enough for a slow event loop to find its leases alive."""


class HeldLease:
    """One place on this replica; while the lease lives, Ray counts one ongoing request."""

    def __init__(self, secret: bytes, expiry_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._expiry_s = expiry_s
        self.exchanges = 0
        self.spare = False
        """Whether the newest exchange was of a line that shall add no replicas."""
        self.verifier = LeaseVerifier(secret)
        self._meter: Meter | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended = self._loop.create_future()
        self._timer = self._loop.call_later(expiry_s, self.end)

    async def wait_ended(self) -> None:
        """Return when the lease has been ended, or has been idle for too long."""
        await self._ended

    def end(self) -> None:
        """End the lease: no more exchanges use it."""
        self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(None)

    def hasten(self, expiry_s: float) -> None:
        """Let the lease expire sooner, from now or from the end of its exchanges."""
        self._expiry_s = expiry_s
        if self.exchanges == 0 and not self._ended.done():
            self._timer.cancel()
            self._timer = self._loop.call_later(expiry_s, self.end)

    def begin_exchange(self, meter: Meter | None = None, *, spare: bool = False) -> None:
        """Note the begin of an HTTP exchange under this lease; `meter` counts its tokens."""
        self.exchanges += 1
        self.spare = spare
        self._meter = meter
        self._idle.clear()
        self._timer.cancel()

    def complete_exchange(self) -> None:
        """Note that the whole answer, with its usage, was sent; the app may still tidy up."""
        self._meter = None

    def end_exchange(self) -> None:
        """Note the end of an HTTP exchange under this lease, with a complete answer or without."""
        self.exchanges -= 1
        if self.exchanges == 0:
            self._idle.set()
            if not self._ended.done():
                self._timer = self._loop.call_later(self._expiry_s, self.end)

    async def read_cut_off(self, settle_s: float) -> Usage | None:
        """The tokens of the last exchange, None if its answer was complete.

        An exchange that still runs is being cut off, because its Router no longer listens. It gets
        up to `settle_s` to end, so that its count is final.
        """
        meter = self._meter
        if meter is None:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(settle_s):
                await self._idle.wait()
        return meter.read()


class LeaseTable:
    """The live leases of one replica."""

    def __init__(self, expiry_s: float = EXPIRY_S) -> None:
        self._expiry_s = expiry_s
        self._leases: dict[str, HeldLease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def exchanges(self) -> int:
        """HTTP exchanges in progress, under all live leases."""
        return sum(lease.exchanges for lease in self._leases.values())

    @property
    def spare(self) -> int:
        """The leases of lines that shall add no replicas: Ray counts them like all others."""
        return sum(lease.spare for lease in self._leases.values())

    def hasten(self, expiry_s: float) -> None:
        """Let all leases, later ones too, expire sooner."""
        self._expiry_s = expiry_s
        for lease in self._leases.values():
            lease.hasten(expiry_s)

    @contextmanager
    def open(self, lease_id: str, secret: bytes) -> Iterator[HeldLease]:
        """A lease that lives as long as the block, which should end with `wait_ended`.

        Its requests must be signed with the secret.

        Raises:
            ValueError: the id is in use.
        """
        if lease_id in self._leases:
            raise ValueError("this lease id is in use")
        lease = self._leases[lease_id] = HeldLease(secret, self._expiry_s)
        try:
            yield lease
        finally:
            del self._leases[lease_id]
            lease.end()

    def find(self, lease_id: str) -> HeldLease | None:
        """The live lease with this id."""
        return self._leases.get(lease_id)
