"""The order in which one call would like to have the replicas of a tier.

A ranking is made once for a call that asks for a place, and goes with the request to Ray: by the
lease's id, through a table of this process, because Ray's request router runs in the same process
but may run in another thread. What it holds is immutable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.leases.http1 import Address

ASK_S = 0.010
"""What a request to Ray costs. An idle place is taken unless a better replica saves more than that.
"""


@dataclass(frozen=True, slots=True)
class Ranking:
    """`names` are Ray's ids of the replicas, the best first; `cost_s` has the expected seconds
    until the first token by the address of a replica."""

    names: tuple[str, ...]
    cost_s: Mapping[Address, float]
    best_s: float

    def accepts(self, address: Address) -> bool:
        """Whether a place there is as good as a request to Ray for the best one."""
        return self.lost_s(address) <= ASK_S

    def lost_s(self, address: Address) -> float:
        """How much later the first token would come from there than from the best replica."""
        return self.cost_s.get(address, self.best_s) - self.best_s


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
