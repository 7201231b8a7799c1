"""How many calls a tier may have before the lines of batches wait in their Router.

A line that waits at Ray is one of the calls that Ray's autoscaler counts, a tier without replicas
gets one for it, and every place that it holds is one that a client cannot have at once. So lines
wait here for room: they fill a tier up to a part of `target_ongoing_calls`, the calls that a
replica should have, and leave the rest to clients.

Lines begin one after another. Lines that begin together end together, and then their successors
begin together: a call that comes at such a moment waits until all their prompts have been read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FILLED_RATIO = 0.875
"""The part of the wanted calls that lines may bring a tier to. Ray's own policy adds a replica as
soon as a tier has more than it wants, and counts places for a moment longer than they are used."""
POLL_S = 0.02
"""How often a line looks for room."""
HELD_S = 0.5
"""How long at most a line waits for the first tokens of clients. An engine would read the prompts
of both in the same steps."""


@dataclass(frozen=True, slots=True)
class SpareRoom:
    """The room that clients leave on one tier. `may_start` says whether a tier without replicas may
    get one for a line."""

    calls_per_replica: float
    may_start: Callable[[], bool]

    def has_room(
        self, *, replicas: int, calls: int, waiting: int, urgent: bool, reading: int = 0
    ) -> bool:
        """Whether one more line may ask for a place.

        Calls that are `waiting` for a place come first, and calls that engines are `reading`.
        An `urgent` line comes when it comes, like a client's call, but it starts no replica either.
        """
        if not replicas and not calls:
            return self.may_start() and not waiting
        if urgent:
            return True
        filled = max(1, int(FILLED_RATIO * self.calls_per_replica * replicas))
        return not waiting and not reading and calls < filled
