"""The outcome of a run: calls without a first token in time, GPU-hours, changes of direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from serve_app.offline.simulation.cluster import SimulatedTier
from serve_app.offline.simulation.engine import NEVER, SimCall

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tier in one run. Percentiles are of the calls that were answered."""

    calls: int
    missed: int
    refused: int
    spilled: int
    gpu_hours: float
    turns_per_hour: float
    first_token_p50_s: float
    first_token_p99_s: float

    @property
    def missed_ratio(self) -> float:
        """The share of the calls that missed the target, including rejected calls."""
        return self.missed / self.calls if self.calls else 0.0


def sum_up(
    state: SimulatedTier, calls: Sequence[SimCall], length_s: float, target_s: float
) -> Outcome:
    """The outcome of one tier's calls, and the cost of its replicas."""
    waits = sorted(call.first_token_s - call.arrived_s for call in calls)
    answered = [wait for wait in waits if wait < NEVER]
    return Outcome(
        calls=len(calls),
        missed=sum(wait > target_s for wait in waits),
        refused=len(waits) - len(answered),
        spilled=sum(call.spilled for call in calls),
        gpu_hours=count_gpu_hours(state, length_s),
        turns_per_hour=count_turns(state.changes) / (length_s / HOUR_S),
        first_token_p50_s=_percentile(answered, 0.5),
        first_token_p99_s=_percentile(answered, 0.99),
    )


def count_gpu_hours(state: SimulatedTier, length_s: float) -> float:
    """The time from the order to start a replica until the replica is gone or the trace ends."""
    held_s = sum(
        max(0.0, min(replica.gone_s, length_s) - replica.ordered_s) for replica in state.replicas
    )
    return held_s * state.tier.gpus / HOUR_S


def count_turns(changes: Sequence[int]) -> int:
    """The number of rises after a fall, and of falls after a rise."""
    return sum((this > 0) != (last > 0) for last, this in pairwise(changes))


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
