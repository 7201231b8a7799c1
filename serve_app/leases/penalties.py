"""The replicas that failed a moment ago, which calls avoid while there are other replicas."""

from __future__ import annotations

from serve_app.core.load import BreakerState
from serve_app.leases.breaker import Breaker
from serve_app.leases.http1 import Address


class Penalties:
    """The breakers of one tier's replicas, as one Router sees them; closed ones are not kept."""

    def __init__(self) -> None:
        self._breakers: dict[Address, Breaker] = {}

    def note(self, address: Address, now: float) -> None:
        """The replica has failed a call."""
        self._breakers.setdefault(address, Breaker()).trip(now)

    def begin(self, address: Address, now: float) -> None:
        """A call goes to the replica."""
        if self._breakers and (breaker := self._breakers.get(address)) is not None:
            breaker.begin(now)

    def clear(self, address: Address) -> None:
        """The replica has answered."""
        if self._breakers:
            self._breakers.pop(address, None)

    def active(self, address: Address, now: float) -> bool:
        """Whether the replica is to be avoided now; forgets old failures."""
        breaker = self._breakers.get(address)
        if breaker is None:
            return False
        if breaker.state(now) is BreakerState.CLOSED:
            del self._breakers[address]
        return breaker.avoided(now)

    def count(self, now: float) -> int:
        """The replicas whose breakers are not closed; forgets old failures."""
        for address in list(self._breakers):
            self.active(address, now)
        return len(self._breakers)
