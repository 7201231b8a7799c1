"""The order in which one call would like to have the replicas of a tier.

A ranking is made once for a call that asks for a place, and goes with the request to Ray: by the
lease's id, through a table of this process, because Ray's request router runs in the same process
but may run in another thread. What it holds is immutable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.leases.http1 import Address

ASK_S = 0.010
"""What a request to Ray costs. An idle place is taken unless a better replica saves more than that.
"""
GAIN_MAX_S = 5.0
"""The most that a call gains or loses by a replica. So no call passes one that came more than twice
as long before it."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """`names` are Ray's ids of the replicas, the best first. By the address of a replica, `cost_s`
    has the seconds that the call costs there, and `read_s` those in which it is read there."""

    names: tuple[str, ...]
    cost_s: Mapping[Address, float]
    best_s: float
    read_s: Mapping[Address, float] = field(default_factory=dict)
    mean_read_s: float = 0.0

    def accepts(self, address: Address) -> bool:
        """Whether a place there is as good as a request to Ray for the best one."""
        return self.lost_s(address) <= ASK_S

    def lost_s(self, address: Address) -> float:
        """How much later the first token would come from there than from the best replica."""
        return self.cost_s.get(address, self.best_s) - self.best_s

    def gain_s(self, address: Address) -> float:
        """How much sooner the call is read there than on the mean replica, within `GAIN_MAX_S`.

        The work that waits there is left out, because every call that got the place would wait
        for it.
        """
        gain_s = self.mean_read_s - self.read_s.get(address, self.mean_read_s)
        return min(max(gain_s, -GAIN_MAX_S), GAIN_MAX_S)


_RANKINGS: dict[str, tuple[str, ...]] = {}
"""By the ids of the leases that Ray is being asked for."""


@contextmanager
def handed_over(lease_id: str, names: tuple[str, ...]) -> Iterator[None]:
    """While the block lasts, Ray's request router finds the ranking of this lease."""
    if not names:
        yield
        return
    _RANKINGS[lease_id] = names
    try:
        yield
    finally:
        del _RANKINGS[lease_id]


def find_ranking(lease_id: object) -> tuple[str, ...]:
    """The ranking of a lease that Ray is being asked for; empty if there is none."""
    return _RANKINGS.get(lease_id, ()) if isinstance(lease_id, str) else ()
