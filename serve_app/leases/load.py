"""The load of a tier: from the calls that its Router sees, and from the reports of its engines."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.leases.http1 import Address

MEMORY_S = 2.0
"""How long the wait for a first token counts. Older waits say nothing about the load now."""
SAMPLES_MAX = 256

ENGINE_FRESH_S = 2.0
"""How long the report of an engine counts; the state streams bring one at least every half second.
"""

LOAD_HEADER = b"x-engine-load"
"""On a replica's answers: calls running, calls waiting in the engine, used part of the KV cache.
"""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The reported load of one engine; `kv_used_ratio` is None where it is unknown."""

    running: int
    queued: int
    kv_used_ratio: float | None

    def render(self) -> bytes:
        """The value of `LOAD_HEADER`."""
        used = b"-" if self.kv_used_ratio is None else b"%.4f" % self.kv_used_ratio
        return b"%d %d %b" % (self.running, self.queued, used)


def parse_engine_load(value: bytes) -> EngineLoad | None:
    """The load in a header, None if the header holds no load."""
    try:
        running, queued, used = value.split()
        return EngineLoad(int(running), int(queued), None if used == b"-" else float(used))
    except ValueError:
        return None


class FirstTokens:
    """How long calls wait for their first token now. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._pending: dict[object, float] = {}
        self._in_order: deque[tuple[float, object]] = deque()
        """The pending calls that were not overtaken, oldest first, and some ended calls."""
        self._told: deque[tuple[float, float]] = deque()
        self._told_s = 0.0
        self._served_since = float("-inf")

    def begin(self, call: object, now: float) -> None:
        """A call begins to wait, for a place and then for the engine."""
        self._pending[call] = now
        self._in_order.append((now, call))

    def end(self, call: object, now: float) -> None:
        """The first token has come; no effect on a call that is not pending."""
        since = self._pending.pop(call, None)
        if since is not None:
            self._tell(now, now - since)
            self._served_since = max(self._served_since, since)
            self._first_pending()

    def forget(self, call: object) -> None:
        """The call ended without a first token, or cannot report it."""
        if self._pending.pop(call, None) is not None:
            self._first_pending()

    def estimate(self, now: float, queued: float) -> float | None:
        """The wait of a call that arrives now, None if nothing is known.

        The longest of: the mean of the newest waits; the age of the oldest pending call that no
        later call has overtaken (a long prompt that others overtake says nothing about other
        calls); where calls are `queued`, the time until as many calls have got their first token.
        """
        told = self._told
        while told and told[0][0] < now - MEMORY_S:
            self._drop_oldest()
        waits = [self._told_s / len(told)] if told else []
        since = self._first_pending()
        if since is not None:
            waits.append(now - since)
        if queued and told:
            period_s = now - told[0][0] if len(told) == SAMPLES_MAX else MEMORY_S
            waits.append(queued * period_s / len(told))
        return max(waits, default=None)

    def _tell(self, now: float, wait_s: float) -> None:
        self._told.append((now, wait_s))
        self._told_s += wait_s
        if len(self._told) > SAMPLES_MAX:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._told_s -= self._told.popleft()[1]
        if not self._told:
            self._told_s = 0.0  # Remove the rest that rounding has left.

    def _first_pending(self) -> float | None:
        """The begin of the oldest call that no later call has overtaken; forgets overtaken calls.

        A call that has been overtaken once stays overtaken.
        """
        order = self._in_order
        while order:
            since, call = order[0]
            if since >= self._served_since and self._pending.get(call) == since:
                return since
            order.popleft()
        return None


@dataclass(frozen=True, slots=True)
class EngineTotal:
    """The load of all engines that have reported lately; `kv_free_ratio` is their mean."""

    replicas: int
    running: int
    queued: int
    kv_free_ratio: float | None

    @property
    def calls(self) -> int:
        """Calls in the engines, of all Routers."""
        return self.running + self.queued


class EngineLoads:
    """The newest report of each replica of a tier, and the sums of these reports."""

    def __init__(self) -> None:
        self._loads: OrderedDict[Address, tuple[float, EngineLoad]] = OrderedDict()
        self._running = self._queued = self._with_cache = 0
        self._kv_used = 0.0

    def note(self, address: Address, load: EngineLoad, now: float) -> None:
        """Take the report of a replica."""
        self._drop(address)
        self._loads[address] = (now, load)
        self._add(load, 1)

    def told_since(self, address: Address, since: float) -> bool:
        """Whether a replica has reported after that moment."""
        told = self._loads.get(address)
        return told is not None and told[0] > since

    def total(self, now: float) -> EngineTotal:
        """The sum of the recent reports; forgets the older reports."""
        self._forget_old(now)
        free = 1 - self._kv_used / self._with_cache if self._with_cache else None
        return EngineTotal(len(self._loads), self._running, self._queued, free)

    def reports(self, now: float) -> Sequence[tuple[str, int, int, float | None]]:
        """Address, running and queued calls and the used part of the KV cache, an engine each."""
        self._forget_old(now)
        return [
            (f"{host}:{port}", load.running, load.queued, load.kv_used_ratio)
            for (host, port, *_), (_, load) in self._loads.items()
        ]

    def _forget_old(self, now: float) -> None:
        while self._loads:
            address, (told_at, _) = next(iter(self._loads.items()))
            if told_at >= now - ENGINE_FRESH_S:
                break
            self._drop(address)

    def _drop(self, address: Address) -> None:
        told = self._loads.pop(address, None)
        if told is not None:
            self._add(told[1], -1)

    def _add(self, load: EngineLoad, sign: int) -> None:
        self._running += sign * load.running
        self._queued += sign * load.queued
        if load.kv_used_ratio is not None:
            self._with_cache += sign
            self._kv_used += sign * load.kv_used_ratio
        if not self._with_cache:
            self._kv_used = 0.0  # Remove the rest that rounding has left.
