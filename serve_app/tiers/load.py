"""How loaded a tier is: from what its Router sees anyway, and from what its engines say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serve_app.tiers.http1 import Address

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
        self._told: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._served_since = float("-inf")

    def begin(self, call: object, now: float) -> None:
        """A call begins to wait, for a place and then for the engine."""
        self._pending[call] = now

    def end(self, call: object, now: float) -> None:
        """Its first token has come; a call that has not begun, or ended before, does nothing."""
        since = self._pending.pop(call, None)
        if since is not None:
            self._told.append((now, now - since))
            self._served_since = max(self._served_since, since)

    def forget(self, call: object) -> None:
        """It ended without one, or cannot tell."""
        self._pending.pop(call, None)

    def estimate(self, now: float, queued: float) -> float | None:
        """The wait of a call that comes now, None without news.

        The longest of: the mean of the newest waits; how long the first of the pending calls has
        waited that none has overtaken (a long prompt takes its time and says nothing of others);
        where calls are `queued`, how long it takes until as many have got theirs.
        """
        told = self._told
        while told and told[0][0] < now - MEMORY_S:
            told.popleft()
        waits = [sum(wait for _, wait in told) / len(told)] if told else []
        for since in self._pending.values():
            if since >= self._served_since:
                waits.append(now - since)
                break
        if queued and told:
            since = now - told[0][0] if len(told) == told.maxlen else MEMORY_S
            waits.append(queued * since / len(told))
        return max(waits, default=None)


class EngineLoads:
    """The newest word of each replica of a tier."""

    def __init__(self) -> None:
        self._loads: dict[Address, tuple[float, EngineLoad]] = {}

    def note(self, address: Address, load: EngineLoad, now: float) -> None:
        """A replica has told."""
        self._loads[address] = (now, load)

    def fresh(self, now: float) -> list[EngineLoad]:
        """What has been told lately; forgets the rest."""
        for address, (told_at, _) in list(self._loads.items()):
            if told_at < now - ENGINE_FRESH_S:
                del self._loads[address]
        return [load for _, load in self._loads.values()]
