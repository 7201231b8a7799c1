"""How loaded a tier is: from what its Router sees anyway, and from what its engines say."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from serve_app.leases.http1 import Address

MEMORY_S = 2.0
"""How long a first token counts. Older ones say nothing of now: no news is no load."""
SAMPLES_MAX = 256

ENGINE_FRESH_S = 2.0
"""How long an engine's word counts; it is asked anew every second."""

LOAD_HEADER = b"x-engine-load"
"""On answers of a replica itself: calls that run, calls that wait in the engine, used KV cache."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What one engine says of itself; `kv_used_ratio` is None where it cannot tell."""

    running: int
    queued: int
    kv_used_ratio: float | None

    def render(self) -> bytes:
        """The value of `LOAD_HEADER`."""
        used = b"-" if self.kv_used_ratio is None else b"%.4f" % self.kv_used_ratio
        return b"%d %d %b" % (self.running, self.queued, used)


def parse_engine_load(value: bytes) -> EngineLoad | None:
    """The load of a header, None if it is none."""
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
        """The pending calls that none has overtaken, oldest first; and some that have ended."""
        self._told: deque[tuple[float, float]] = deque()
        self._told_s = 0.0
        self._served_since = float("-inf")

    def begin(self, call: object, now: float) -> None:
        """A call begins to wait, for a place and then for the engine."""
        self._pending[call] = now
        self._in_order.append((now, call))

    def end(self, call: object, now: float) -> None:
        """Its first token has come; a call that has not begun, or ended before, does nothing."""
        since = self._pending.pop(call, None)
        if since is not None:
            self._tell(now, now - since)
            self._served_since = max(self._served_since, since)
            self._first_pending()

    def forget(self, call: object) -> None:
        """It ended without one, or cannot tell."""
        if self._pending.pop(call, None) is not None:
            self._first_pending()

    def estimate(self, now: float, queued: float) -> float | None:
        """The wait of a call that comes now, None without news.

        The longest of: the mean of the newest waits; how long the first of the pending calls has
        waited that none has overtaken (a long prompt takes its time and says nothing of others);
        where calls are `queued`, how long it takes until as many have got theirs.
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
            self._told_s = 0.0  # What rounding has left.

    def _first_pending(self) -> float | None:
        """Since when the first call waits that none has overtaken; forgets those before it.

        A call that has been overtaken once stays so.
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
    """The load of all engines that have told theirs lately; `kv_free_ratio` is their mean."""

    replicas: int
    running: int
    queued: int
    kv_free_ratio: float | None


class EngineLoads:
    """The newest word of each replica of a tier, and their sums."""

    def __init__(self) -> None:
        self._loads: OrderedDict[Address, tuple[float, EngineLoad]] = OrderedDict()
        self._running = self._queued = self._with_cache = 0
        self._kv_used = 0.0

    def note(self, address: Address, load: EngineLoad, now: float) -> None:
        """A replica has told."""
        self._drop(address)
        self._loads[address] = (now, load)
        self._add(load, 1)

    def told_since(self, address: Address, since: float) -> bool:
        """Whether a replica has told after that moment."""
        told = self._loads.get(address)
        return told is not None and told[0] > since

    def total(self, now: float) -> EngineTotal:
        """What has been told lately; forgets the rest."""
        while self._loads:
            address, (told_at, _) = next(iter(self._loads.items()))
            if told_at >= now - ENGINE_FRESH_S:
                break
            self._drop(address)
        free = 1 - self._kv_used / self._with_cache if self._with_cache else None
        return EngineTotal(len(self._loads), self._running, self._queued, free)

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
            self._kv_used = 0.0  # What rounding has left.
