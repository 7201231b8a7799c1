"""The replicas that failed a moment ago, which calls avoid while there are other replicas."""

from __future__ import annotations

from serve_app.leases.http1 import Address

PENALTY_S = 1.0
"""How long a replica is avoided after a failure; doubles with each further failure.
"""
PENALTY_S_MAX = 8.0


class Penalties:
    """The failures of one tier's replicas, as one Router has seen them.

    A penalty never refuses a call. Otherwise a client whose requests make engines fail would take
    the tier away from all other clients.
    """

    def __init__(self) -> None:
        self._until: dict[Address, tuple[float, float]] = {}

    def note(self, address: Address, now: float) -> None:
        """The replica has failed a call."""
        until, length_s = self._until.get(address, (now, PENALTY_S / 2))
        if now < until:
            return  # The calls that are already there fail together; their failures count once.
        length_s = min(2 * length_s, PENALTY_S_MAX)
        self._until[address] = (now + length_s, length_s)

    def clear(self, address: Address) -> None:
        """The replica has answered."""
        self._until.pop(address, None)

    def active(self, address: Address, now: float) -> bool:
        """Whether the replica is to be avoided now; forgets old failures."""
        found = self._until.get(address)
        if found is None:
            return False
        until, length_s = found
        if now >= until + PENALTY_S_MAX + length_s:
            del self._until[address]
        return now < until
