"""The policy of one tier: how many replicas it should have now.

Demand is the arriving work, measured in replicas: calls a second times the seconds of a replica
that a call takes. Ray's own policy divides the number of calls at a time, which does not measure
demand: the fewer calls an engine has, the faster it answers each call. A tier that has just grown
then seems to need half of its replicas, and a tier that lacks replicas seems to need twice as many.

The policy scales up at once and by as much as is needed, because a replica takes minutes to start.
It scales down when fewer replicas would have carried the demand of the whole last `quiet_s`, with a
fifth of a replica to spare. So a steady demand cannot make the number of replicas go up and down.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from serve_app.autoscaling.demand import Capacity, TierSignals, measure_kv
from serve_app.autoscaling.history import RATE_S, History
from serve_app.autoscaling.schedule import Window, choose_floor

LOOK_S = 1.0
"""The time between two looks at a tier; Ray asks ten times a second, with fewer new reports."""
HISTORY_S_MIN = 120.0
DRAIN_S = 60.0
"""The time within which waiting calls shall have a place once the new replicas are there."""
TREND_GROWTH_MAX = 1.5
"""The most by which a trend may multiply the present demand: a wrong trend costs idle GPUs."""
CALM_S = 40.0
"""How long waits, KV caches and sudden growth are ignored after new replicas came, because the
backlog is being served."""
SLACK = 0.05
"""The part of a replica that may be missing: a demand of 3.04 replicas gets 3."""
LINES_S = 60.0
"""How long a floor for lines stays after the last line was seen, because lines come in waves."""
SPARE = 0.2
"""The part of a replica that must be to spare before a replica ends: at 2.9 the fourth stays."""


@dataclass(frozen=True, slots=True)
class TierRules:
    """A tier's scaling rules from its config. `idle_s` None: never scale to zero.

    The floors of `batch_schedule` hold only while lines of batches run on the tier.
    """

    min: int
    max: int
    capacity: Capacity
    start_s: float
    quiet_s: float
    idle_s: float | None = None
    schedule: tuple[Window, ...] = ()
    batch_schedule: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """The number of replicas, and the reasons for them.

    `floor` replicas are there without any call, `own` replicas are for the tier's own calls.
    `needed` is the present demand, without bounds or memory.
    """

    replicas: int
    own: int
    floor: int
    needed: float


@dataclass(slots=True)
class PeakHold:
    """The largest value of the last `keep_s` seconds."""

    keep_s: float
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)

    def hold(self, now_s: float, value: float) -> float:
        """Add a value; returns the largest."""
        peaks = self._peaks
        while peaks and peaks[-1][1] <= value:
            peaks.pop()
        peaks.append((now_s, value))
        while peaks[0][0] < now_s - self.keep_s:
            peaks.popleft()
        return peaks[0][1]


class TierPolicy:
    """Decides for one tier, look by look, and remembers the earlier looks."""

    def __init__(self, rules: TierRules) -> None:
        self.rules = rules
        self._forget()

    def _forget(self) -> None:
        rules = self.rules
        self._history = History(keep_s=max(HISTORY_S_MIN, 2 * rules.start_s))
        # Calls that are turned away while replicas start are counted nowhere. So earlier demand
        # must be remembered until these replicas are there, and for a while after.
        memory_s = max(rules.quiet_s, rules.start_s + CALM_S)
        self._steady = PeakHold(memory_s)
        self._steady_own = PeakHold(memory_s)
        self._backlog = PeakHold(DRAIN_S)
        self._looked_s: float | None = None
        self._busy_s = self._lines_s = float("-inf")
        self._ready = 0
        self._grown_s = float("-inf")
        self._own = 0.0
        self._last = ScalingDecision(rules.min, rules.min, rules.min, 0.0)

    @property
    def last(self) -> ScalingDecision:
        """The newest decision."""
        return self._last

    def is_due(self, now_s: float) -> bool:
        """Whether another look is due; the check costs nothing, but the signals do."""
        looked_s = self._looked_s
        return looked_s is None or not looked_s <= now_s < looked_s + LOOK_S

    def decide(self, signals: TierSignals, *, spilled: float = 0.0) -> ScalingDecision:
        """The number of replicas from now on, within the rules' bounds.

        `spilled` are the replicas that another tier's calls need here, on top of the tier's own.
        """
        now_s = signals.now_s
        if self._looked_s is not None and now_s < self._looked_s:
            self._forget()  # The clock was set back, so earlier looks have no valid time.
        if self._looked_s is None:
            # Existing replicas were requested for a reason; they end once they are not needed.
            self._ready = signals.ready
            self._steady.hold(now_s, float(signals.target))
            self._steady_own.hold(now_s, float(signals.target))
            self._busy_s = now_s if signals.target else float("-inf")
        elif not self.is_due(now_s):
            return self._last
        self._looked_s = now_s
        self._history.note(signals, spilled=spilled > 0)
        if signals.ready > self._ready:
            self._grown_s = now_s
        self._ready = signals.ready
        arriving, short = self._measure_arriving(signals), self._measure_short(signals)
        if not spilled:
            self._own = max(arriving, short)
        elif signals.wanted:
            # Arriving calls are counted by tier, but spilled calls may be why the engines are
            # short.
            self._own = arriving
        coming = max(arriving, short, self._own + spilled)
        steady = self._steady.hold(now_s, coming)
        steady_own = self._steady_own.hold(now_s, self._own)
        backlog = self._backlog.hold(now_s, self._measure_backlog(signals))
        floor = min(self.rules.max, self._floor(signals))
        self._last = ScalingDecision(
            replicas=max(
                self._count(steady + backlog, floor, signals.target),
                min(self.rules.max, self._floor_for_lines(signals)),
            ),
            own=self._count(steady_own + backlog, floor, signals.target),
            floor=floor,
            needed=coming,
        )
        return self._last

    def _count(self, wanted: float, floor: int, target: int) -> int:
        """Whole replicas within the bounds; an existing one ends only if `SPARE` remains."""
        kept = min(target, math.ceil(wanted + SPARE)) if wanted else 0
        return min(self.rules.max, max(round_up(wanted), kept, floor))

    def _measure_arriving(self, signals: TierSignals) -> float:
        """Replicas for the calls that arrive now, or when a replica ordered now is ready."""
        rules, capacity, history = self.rules, self.rules.capacity, self._history
        work_s = history.work_s(capacity)
        if work_s is None:
            return history.calls / capacity.calls
        per_s = history.count_arrivals(0.0 if self._is_calm(signals) else RATE_S[0])
        trend_per_s = min(history.project_trend(rules.start_s), per_s * TREND_GROWTH_MAX)
        return max(per_s, trend_per_s) * work_s / capacity.busy_ratio

    def _measure_short(self, signals: TierSignals) -> float:
        """Replicas that the engines ask for. The engines only show that the present replicas are
        too few, not how many are needed."""
        capacity = self.rules.capacity
        all_there = 0 < signals.target <= signals.ready
        if not self._is_calm(signals) or not signals.calls or not all_there:
            return 0.0
        # The Routers send fewer lines before a call needs another replica.
        late_s = None if signals.spare else self._history.first_token_s
        late = late_s is not None and late_s > capacity.first_token_target_s
        return max(measure_kv(signals, capacity), signals.target + 1.0 if late else 0.0)

    def _is_calm(self, signals: TierSignals) -> bool:
        return signals.now_s - self._grown_s > CALM_S

    def _measure_backlog(self, signals: TierSignals) -> float:
        """Replicas on top, so that waiting calls are served soon after the start."""
        work_s = self._history.work_s(self.rules.capacity)
        return 0.0 if work_s is None else signals.waiting * work_s / DRAIN_S

    def _floor(self, signals: TierSignals) -> int:
        rules = self.rules
        floor = max(rules.min, choose_floor(rules.schedule, signals.now_s, rules.start_s))
        if rules.idle_s is None:
            return max(1, floor)
        if signals.calls > 0:
            self._busy_s = signals.now_s
        return max(1 if signals.now_s - self._busy_s < rules.idle_s else 0, floor)

    def _floor_for_lines(self, signals: TierSignals) -> int:
        """The replicas that lines may hold now; none without lines."""
        if signals.spare:
            self._lines_s = signals.now_s
        if signals.now_s - self._lines_s > LINES_S:
            return 0
        return choose_floor(self.rules.batch_schedule, signals.now_s, 0.0)


def round_up(needed: float) -> int:
    """Whole replicas, with a little slack."""
    return max(0, math.ceil(needed - SLACK))
