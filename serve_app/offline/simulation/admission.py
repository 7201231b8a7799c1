"""The rule of `leases/admission.py` in a simulated tier: its forecast, and its deadline."""

from __future__ import annotations

from serve_app.leases.forecast import FirstTokenQueue, Fullness, TimePerCall
from serve_app.offline.simulation.engine import SimCall


class SimAdmission:
    """Whether the calls of one tier can begin within a deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._holds = TimePerCall()
        self._fullness = Fullness()
        self._firsts = FirstTokenQueue()

    def admits(self, call: SimCall, now_s: float, waiting: int, in_use: int) -> bool:
        """Whether a call that arrives now begins in time by the forecast."""
        self._fullness.note(waiting, in_use, now_s)
        wait_s = self._firsts.longest_s(now_s, self._deadline_s)
        if waiting and in_use and self._fullness.full(now_s):
            wait_s += self._holds.longest_s(waiting + 1) / in_use
        return now_s + wait_s <= call.arrived_s + self._deadline_s

    def gives_up(self, call: SimCall, now_s: float) -> bool:
        """Whether too little time is left for a call that has waited for a place."""
        return now_s + self._firsts.mean_s() > call.arrived_s + self._deadline_s

    def placed(self, call: SimCall, now_s: float, waiting: int, in_use: int) -> None:
        """A call has got a place."""
        self._fullness.note(waiting, in_use, now_s)
        self._firsts.begin(call, now_s)

    def began(self, call: SimCall, now_s: float) -> None:
        """The first token of a call has come."""
        self._firsts.end(call, now_s)

    def ended(self, call: SimCall, now_s: float) -> None:
        """A call has left its place."""
        self._holds.note(now_s - call.placed_s, 1)
