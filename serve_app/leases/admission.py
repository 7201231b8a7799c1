"""Rejects the calls that could not begin within the deadline of their first token.

A call is rejected when it arrives, if the forecast says that its first token would come too late.
A call that waits for a place is rejected once too little time is left for its first token, because
an answer that comes too late is work that another call needs. Where a call may go to another tier,
the pipeline sends the rejected call there.

The time from the place to the first token has two forecasts, and only one counts, because both are
of the same queue. The replicas' own is the better: it knows the calls of all Routers, and how much
of this very prompt each replica has cached. Without it, as on a tier whose replicas are not chosen
by their caches, the Router's own calls tell (`leases/forecast.py`).
"""

from __future__ import annotations

import asyncio
import math

from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import WouldBeLate
from serve_app.leases.forecast import FirstTokenQueue
from serve_app.leases.order import Claim
from serve_app.leases.pool import LeasePool


class Admission:
    """Whether the calls of one Router can begin in time on one tier."""

    def __init__(self, leases: LeasePool) -> None:
        self._leases = leases
        self.firsts = FirstTokenQueue()
        """The calls that have a place, until their first tokens."""

    def check(self, claim: Claim, deadlines: Deadlines, first_token_s: float | None = None) -> None:
        """Raise WouldBeLate if a call that arrives now would begin too late.

        `first_token_s` is what the replicas promise the call from its place on, None if unknown.
        """
        if deadlines.first_token_at is None:
            return
        now = asyncio.get_running_loop().time()
        left_s = deadlines.first_token_at - now
        late_s = self._expected_s(claim, now, left_s, first_token_s) - left_s
        if late_s > 0:
            raise WouldBeLate(retry_after_s=math.ceil(late_s))

    def _expected_s(
        self, claim: Claim, now: float, deadline_s: float, first_token_s: float | None
    ) -> float:
        if first_token_s is None:
            first_token_s = self.firsts.longest_s(now, deadline_s)
        return self._leases.expected_wait_s(claim) + first_token_s

    def place_at(self, deadlines: Deadlines, first_token_s: float | None = None) -> float:
        """The time until which a call may wait for a place and still begin in time."""
        if deadlines.first_token_at is None:
            return math.inf
        if first_token_s is None:
            first_token_s = self.firsts.mean_s()
        return deadlines.first_token_at - first_token_s

    def missed(self, claim: Claim, first_token_s: float | None = None) -> WouldBeLate:
        """The error of a call that has waited for a place until `place_at`."""
        now = asyncio.get_running_loop().time()
        expected_s = self._expected_s(claim, now, 0.0, first_token_s)
        return WouldBeLate(retry_after_s=max(1, math.ceil(expected_s)))
