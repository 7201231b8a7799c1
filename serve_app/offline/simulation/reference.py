"""Controllers for comparison: an oracle that knows the trace, and a reaction without delay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from serve_app.offline.simulation.cluster import TierView
from serve_app.offline.simulation.trace import Trace

WINDOW_S = 30.0


class PlannedController:
    """Follow a plan: targets by the time from which they apply."""

    def __init__(self, plans: Sequence[Sequence[tuple[float, int]]]) -> None:
        self._plans = [list(plan) for plan in plans]
        self._now = [plan[0][1] for plan in self._plans]

    def decide(self, now_s: float, views: Sequence[TierView]) -> Sequence[int]:
        """The target of the plan at this time."""
        for index, plan in enumerate(self._plans):
            while plan and plan[0][0] <= now_s:
                self._now[index] = plan.pop(0)[1]
        return list(self._now)


def count_needed(trace: Trace, capacity_per_s: float, fill: float, start_s: float) -> list[int]:
    """The replicas that carry the trace, window by window.

    Each replica carries `fill` of its capacity (`capacity_per_s` calls). A dip that is shorter than
    a start is filled, because a stop and a new start would cost more than keeping the replica.
    """
    bins = math.ceil(trace.length_s / WINDOW_S)
    counted, _ = np.histogram(trace.arrived_s, bins=bins, range=(0.0, bins * WINDOW_S))
    # Calls that arrive in one window are still being answered in the next window.
    spread = np.maximum(counted, np.roll(counted, 1))
    spread[0] = counted[0]
    needed = np.maximum(1, np.ceil(spread / (WINDOW_S * capacity_per_s * fill)))
    return _fill_dips([int(value) for value in needed], math.ceil(start_s / WINDOW_S))


def _fill_dips(needed: list[int], width: int) -> list[int]:
    """Between two windows at most `width` apart, never fewer than both of them need."""
    filled = list(needed)
    for begin, level in enumerate(needed):
        for end in range(min(len(needed) - 1, begin + width), begin, -1):
            floor = min(level, needed[end])
            for index in range(begin + 1, end):
                filled[index] = max(filled[index], floor)
    return filled


def plan_oracle(needed: Sequence[int], start_s: float) -> list[tuple[float, int]]:
    """Order every replica early enough that it is ready when it is needed."""
    ahead = math.ceil(start_s / WINDOW_S) + 1
    return [(index * WINDOW_S, max(needed[index : index + ahead])) for index in range(len(needed))]


def plan_reaction(needed: Sequence[int]) -> list[tuple[float, int]]:
    """Order every replica at the moment when it is needed, and not before."""
    return [(index * WINDOW_S, count) for index, count in enumerate(needed)]
