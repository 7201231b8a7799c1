"""Tiers of replicas under a trace: places, queues, starts and drains, and the controller's view.

A controller's reports have the same age as Ray's: Routers and replicas record their state at
intervals (`record_s`), keep the records for `look_back_s`, and send them every `push_s`.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from serve_app.offline.simulation.admission import SimAdmission
from serve_app.offline.simulation.engine import NEVER, EngineTiming, SimCall, SimEngine
from serve_app.offline.simulation.trace import Trace

TICK_S = 1.0
"""The interval at which a controller is asked. Ray asks ten times a second, but its reports are
seconds old.
"""
PICTURE_S = 10.0
AFTER_S = 120.0
"""How long after the last call answers may still arrive."""


@dataclass(frozen=True, slots=True)
class SimTier:
    """A tier from the config. `patience_s` is the time that a call waits for a place."""

    name: str
    timing: EngineTiming
    gpus: float
    start_s: float
    replicas_max: int
    max_ongoing_calls: int
    max_queued_calls: int
    patience_s: float
    first_token_target_s: float


@dataclass(frozen=True, slots=True)
class News:
    """The largest age of a report to a controller."""

    look_back_s: float
    push_s: float

    @property
    def record_s(self) -> float:
        """The interval of records: Ray's `RECORD_INTERVAL_FACTOR` of the look-back."""
        return min(0.2 * self.look_back_s, self.push_s)


@dataclass(frozen=True, slots=True)
class MetricSample:
    """A record of the Routers about a tier: its calls on replicas, the calls that wait for a place,
    and the number of all calls that were meant for the tier so far.
    """

    at_s: float
    ongoing: int
    queued: int
    wanted: int


@dataclass(frozen=True, slots=True)
class EngineSample:
    """A record of a replica about its engine, in the names of `scaling.demand.EngineSignals`."""

    at_s: float
    running: int
    queued: int
    kv_used_ratio: float
    first_tokens: int
    first_token_waits_s: float
    finished: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class TierView:
    """A report to a controller about a tier."""

    ready: int
    target: int
    samples: Sequence[MetricSample]
    engines: Mapping[str, EngineSample]


class Controller(Protocol):
    """Decides how many replicas the tiers have."""

    def decide(self, now_s: float, views: Sequence[TierView]) -> Sequence[int]:
        """The targets from now on, one a tier."""
        ...


class SimReplica:
    """A replica from the order to start it until it is gone."""

    __slots__ = ("draining", "engine", "gone_s", "key", "ordered_s", "ready_s", "version")

    def __init__(self, key: str, ordered_s: float, ready_s: float, timing: EngineTiming) -> None:
        self.key = key
        self.ordered_s = ordered_s
        self.ready_s = ready_s
        self.gone_s = NEVER
        self.draining = False
        self.engine = SimEngine(timing, ready_s)
        self.version = 0


@dataclass(slots=True)
class SimulatedTier:
    """A tier while the simulation runs."""

    tier: SimTier
    target: int
    admission: SimAdmission | None = None
    starting: list[SimReplica] = field(default_factory=list)
    ready: list[SimReplica] = field(default_factory=list)
    gone: list[SimReplica] = field(default_factory=list)
    queue: deque[SimCall] = field(default_factory=deque)
    recorded: deque[MetricSample] = field(default_factory=deque)
    told: Sequence[MetricSample] = ()
    told_engines: Mapping[str, EngineSample] = field(default_factory=dict)
    recorded_engines: dict[str, EngineSample] = field(default_factory=dict)
    picture: list[tuple[float, int, int, int]] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    wanted: int = 0

    @property
    def replicas(self) -> list[SimReplica]:
        """All replicas, including ended ones."""
        return [*self.gone, *self.ready, *self.starting]

    @property
    def in_use(self) -> int:
        """Places that calls use on the replicas that take calls."""
        return sum(replica.engine.calls for replica in self.ready)


class Cluster:
    """Run one trace per tier through the tiers."""

    def __init__(
        self,
        tiers: Sequence[SimTier],
        controller: Controller,
        news: News,
        initial: Sequence[int],
        *,
        spill: Mapping[int, int] | None = None,
        admits: bool = False,
        seed: int = 0,
    ) -> None:
        """`spill`: the tier to which a call without a place on its tier goes. `admits`: a tier
        takes only the calls that can begin within its target; the others spill or are rejected."""
        self.states = [
            SimulatedTier(tier, target, SimAdmission(tier.first_token_target_s) if admits else None)
            for tier, target in zip(tiers, initial, strict=True)
        ]
        self._controller = controller
        self._news = news
        self._spill = spill or {}
        self._random = random.Random(seed)  # Not for secrets: the same seed, the same run.
        # No process's clock begins with the trace.
        self._pushed_s = self._random.uniform(-news.push_s, 0.0)
        self._recorded_s = float("-inf")
        self._heap: list[tuple[float, int, int, SimReplica, int]] = []
        self._serial = count()
        self._names = count()
        for index, state in enumerate(self.states):
            for _ in range(state.target):
                self._start(index, 0.0, 0.0)
            self._open_ready(index, 0.0)

    def run(self, traces: Sequence[Trace]) -> list[list[SimCall]]:
        """Run to the end, and return the calls of each trace."""
        calls = [
            [
                SimCall(at_s, prompt, output)
                for at_s, prompt, output in zip(
                    trace.arrived_s.tolist(),
                    trace.prompt.tolist(),
                    trace.output.tolist(),
                    strict=True,
                )
            ]
            for trace in traces
        ]
        arrivals = [
            (call.arrived_s, index, call) for index, all_ in enumerate(calls) for call in all_
        ]
        arrivals.sort(key=lambda item: item[0])
        length_s = max(trace.length_s for trace in traces)
        end_s = length_s + AFTER_S
        place, tick_s = 0, 0.0
        heap = self._heap
        while True:
            arrival_s = arrivals[place][0] if place < len(arrivals) else NEVER
            event_s = heap[0][0] if heap else NEVER
            now_s = min(arrival_s, event_s, tick_s)
            if now_s > end_s:
                return calls
            if now_s == tick_s:
                self._tick(now_s, decides=now_s <= length_s)
                tick_s += TICK_S
            elif now_s == event_s:
                _, _, index, replica, version = heapq.heappop(heap)
                if version == replica.version:
                    self._run_replica(index, replica, now_s)
            else:
                _, index, call = arrivals[place]
                place += 1
                self._arrive(index, call, now_s)

    def _arrive(self, index: int, call: SimCall, now_s: float) -> None:
        self.states[index].wanted += 1
        if self.states[index].admission is not None:
            self._admit(index, call, now_s)
            return
        if self._place(index, call, now_s):
            return
        other = self._spill.get(index)
        if other is not None:
            call.spilled = True
            index = other
            if self._place(index, call, now_s):
                return
        state = self.states[index]
        if len(state.queue) < state.tier.max_queued_calls:
            state.queue.append(call)

    def _admit(self, index: int, call: SimCall, now_s: float) -> None:
        """Give a call to the first of its tiers on which it can begin in time."""
        other = self._spill.get(index)
        for chosen in (index,) if other is None else (index, other):
            state = self.states[chosen]
            assert state.admission is not None, "all tiers have one, or none"
            if state.admission.admits(call, now_s, len(state.queue), state.in_use):
                call.spilled = chosen != index
                if not self._place(chosen, call, now_s):
                    state.queue.append(call)
                return

    def _place(self, index: int, call: SimCall, now_s: float) -> bool:
        """Place a call on the less loaded of two replicas, as Ray does; if both are full, on any
        replica with a free place.
        """
        state = self.states[index]
        ready = state.ready
        if not ready:
            return False
        size = state.tier.max_ongoing_calls
        chosen = self._random.choice(ready)
        if len(ready) > 1:
            other = self._random.choice(ready)
            if other.engine.calls < chosen.engine.calls:
                chosen = other
        if chosen.engine.calls >= size:
            chosen = min(ready, key=lambda replica: replica.engine.calls)
            if chosen.engine.calls >= size:
                return False
        chosen.engine.add(call, now_s)
        if state.admission is not None:
            state.admission.placed(call, now_s, len(state.queue), state.in_use)
        self._expect(index, chosen)
        return True

    def _expect(self, index: int, replica: SimReplica) -> None:
        replica.version += 1
        event_s = replica.engine.next_event_s()
        if event_s < NEVER:
            item = (event_s, next(self._serial), index, replica, replica.version)
            heapq.heappush(self._heap, item)

    def _run_replica(self, index: int, replica: SimReplica, now_s: float) -> None:
        prefilled = next(iter(replica.engine.prefilling), None)
        ended = replica.engine.run(now_s)
        admission = self.states[index].admission
        if admission is not None:
            _note_progress(admission, prefilled, ended, now_s)
        if replica.draining:
            if replica.engine.calls == 0:
                replica.gone_s = now_s
        elif ended:
            self._serve_queue(index, now_s)
        self._expect(index, replica)

    def _serve_queue(self, index: int, now_s: float) -> None:
        state = self.states[index]
        queue, patience_s = state.queue, state.tier.patience_s
        while queue:
            gave_up = now_s - queue[0].arrived_s > patience_s or (
                state.admission is not None and state.admission.gives_up(queue[0], now_s)
            )
            if not gave_up and not self._place(index, queue[0], now_s):
                return
            queue.popleft()

    def _tick(self, now_s: float, *, decides: bool) -> None:
        for index in range(len(self.states)):
            self._open_ready(index, now_s)
            self._serve_queue(index, now_s)
        self._record(now_s)
        if now_s % PICTURE_S < TICK_S:
            for state in self.states:
                shown = (now_s, state.target, len(state.ready), len(state.queue))
                state.picture.append(shown)
        if not decides:
            return
        views = [
            TierView(len(state.ready), state.target, state.told, state.told_engines)
            for state in self.states
        ]
        for index, target in enumerate(self._controller.decide(now_s, views)):
            self._aim(index, target, now_s)

    def _open_ready(self, index: int, now_s: float) -> None:
        state = self.states[index]
        opened = [replica for replica in state.starting if replica.ready_s <= now_s]
        if opened:
            state.starting = [r for r in state.starting if r.ready_s > now_s]
            state.ready += opened

    def _aim(self, index: int, target: int, now_s: float) -> None:
        state = self.states[index]
        target = min(state.tier.replicas_max, max(0, target))
        if target != state.target:
            state.changes.append(target - state.target)
            state.target = target
        while len(state.starting) + len(state.ready) < target:
            self._start(index, now_s, now_s + state.tier.start_s)
        while len(state.starting) + len(state.ready) > target:
            self._stop(state, now_s)

    def _start(self, index: int, now_s: float, ready_s: float) -> None:
        state = self.states[index]
        key = f"{state.tier.name}-{next(self._names)}"
        state.starting.append(SimReplica(key, now_s, ready_s, state.tier.timing))

    def _stop(self, state: SimulatedTier, now_s: float) -> None:
        """The replica to stop: the newest that still starts, or else the least loaded, which
        finishes its calls.
        """
        if state.starting:
            replica = state.starting.pop()
            replica.gone_s = now_s
        else:
            replica = min(state.ready, key=lambda each: each.engine.calls)
            state.ready.remove(replica)
            replica.draining = True
            if replica.engine.calls == 0:
                replica.gone_s = now_s
        state.gone.append(replica)

    def _record(self, now_s: float) -> None:
        news = self._news
        if now_s - self._recorded_s >= news.record_s - 1e-9:
            self._recorded_s = now_s
            for state in self.states:
                state.recorded.append(
                    MetricSample(now_s, state.in_use, len(state.queue), state.wanted)
                )
                while state.recorded[0].at_s < now_s - news.look_back_s:
                    state.recorded.popleft()
                state.recorded_engines = {
                    replica.key: _look(replica.engine, now_s) for replica in state.ready
                }
        if now_s - self._pushed_s >= news.push_s - 1e-9:
            self._pushed_s += news.push_s
            for state in self.states:
                state.told = tuple(state.recorded)
                state.told_engines = state.recorded_engines


def _note_progress(
    admission: SimAdmission, prefilled: SimCall | None, ended: Sequence[SimCall], now_s: float
) -> None:
    if prefilled is not None and prefilled.first_token_s < NEVER:
        admission.began(prefilled, now_s)
    for call in ended:
        admission.ended(call, now_s)


def _look(engine: SimEngine, now_s: float) -> EngineSample:
    return EngineSample(
        at_s=now_s,
        running=engine.running,
        queued=len(engine.waiting),
        kv_used_ratio=engine.kv_used_ratio,
        first_tokens=engine.first_tokens,
        first_token_waits_s=engine.first_token_waits_s,
        finished=engine.finished,
        prompt_tokens=engine.prompt_tokens,
        output_tokens=engine.output_tokens,
    )
