"""Whether the engine of a replica works: dead, stuck, or slow and to be left alone.

A sign of life is a step of the engine, or the answer to a ping that its loop gives between two
steps. An engine that shows none for `stuck_s` is stuck. Idle engines answer pings from their loop
alone, so an engine that was idle for `idle_probe_s` also generates one token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from serve_app.core.call import Endpoint

logger = logging.getLogger("ray.serve")

TICK_S = 0.1
"""How often the watch looks."""

COUNTED_S_MAX = 2 * TICK_S
"""The longest time between two looks that counts. When the watch itself did not run, because the
replica was stopped or its CPUs were busy, the engine's messages were not read either."""

PING_S_MAX = 5.0
"""How long an engine makes no step before it is sent a ping."""


class EngineFault(Enum):
    """Why a replica cannot go on."""

    DEAD = "the engine has died"
    STUCK = "the engine makes no step and answers no ping"
    CLOSED = "the engine's HTTP server has stopped"


class WatchedEngine(Protocol):
    """The parts of an engine that the watch reads."""

    @property
    def can_be_pinged(self) -> bool:
        """Whether more than `fault` can be asked."""
        ...

    def fault(self) -> EngineFault | None:
        """The fault that the engine's client knows by itself; costs microseconds."""
        ...

    def steps(self) -> int:
        """How many steps of the engine have been seen."""
        ...

    def busy(self) -> bool:
        """Whether the engine has requests."""
        ...

    async def ping(self) -> bool:
        """Return when the engine's loop has answered: whether it was paused on purpose."""
        ...

    async def probe(self) -> None:
        """Return when the engine has generated a token."""
        ...


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """How long an engine may be silent or idle; None: it is not taken for stuck, or not probed."""

    stuck_s: float | None
    idle_probe_s: float | None
    probes: Endpoint


class Pulse:
    """Counts for how long a counter has stood still."""

    def __init__(self, now: float, count: int, counted_s_max: float = COUNTED_S_MAX) -> None:
        self._now, self._count, self._counted_s_max = now, count, counted_s_max
        self.still_s = 0.0

    def note(self, now: float, count: int) -> float:
        """Look at the counter: the seconds for which it has stood still."""
        passed_s, self._now = min(now - self._now, self._counted_s_max), now
        self.still_s = self.still_s + passed_s if count == self._count else 0.0
        self._count = count
        return self.still_s


class EngineWatch:
    """Watches one engine, and reports its first fault once."""

    def __init__(
        self, engine: WatchedEngine, plan: WatchPlan, report: Callable[[EngineFault], None]
    ) -> None:
        self._engine, self._report = engine, report
        self._stuck_s = plan.stuck_s if engine.can_be_pinged else None
        self._idle_probe_s = plan.idle_probe_s if engine.can_be_pinged else None
        self._answers = 0
        self._paused = False
        self._life: Pulse | None = None
        self._work: Pulse | None = None
        self._probed: Pulse | None = None
        self._ping: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self.looks = 0
        """How often the watch has looked."""
        self.fault: EngineFault | None = None
        """The fault that has been reported."""

    async def run(self) -> None:
        """Look until there is a fault."""
        loop = asyncio.get_running_loop()
        while self.fault is None:
            self.look(loop.time())
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Stop what has been sent to the engine."""
        for task in (self._ping, self._probe):
            if task is not None:
                task.cancel()

    def look(self, now: float) -> None:
        """Look once."""
        self.looks += 1
        fault = self._engine.fault() or self._find_stuck(now)
        if fault is None:
            self._send_probe(now)
        elif self.fault is None:
            self.fault = fault
            self.close()
            self._report(fault)

    def _find_stuck(self, now: float) -> EngineFault | None:
        stuck_s = self._stuck_s
        if stuck_s is None:
            return None
        steps = self._engine.steps()
        self._life = self._life or Pulse(now, steps + self._answers)
        silent_s = self._life.note(now, steps + self._answers)
        if silent_s >= min(stuck_s / 4, PING_S_MAX):
            self._ping = self._ping or asyncio.create_task(self._send_ping())
        if silent_s >= stuck_s or self._unanswered_s(now, steps) >= stuck_s:
            return EngineFault.STUCK
        return None

    def _unanswered_s(self, now: float, steps: int) -> float:
        """For how long the engine has made no step for a probe, although it was not paused."""
        if self._probed is None:
            return 0.0
        if self._paused:
            self._probed = Pulse(now, steps)
        return self._probed.note(now, steps)

    async def _send_ping(self) -> None:
        try:
            self._paused = await self._engine.ping()
        except Exception as error:  # noqa: BLE001  # an error is an answer of the loop, too
            if not self._answers:
                logger.warning("the engine answers pings with errors: %s", type(error).__name__)
        self._answers += 1
        self._ping = None

    def _send_probe(self, now: float) -> None:
        idle_s = self._idle_probe_s
        if idle_s is None or self._probe is not None:
            return
        self._work = self._work or Pulse(now, 0)
        busy = self._engine.busy() or self._paused
        steps = self._engine.steps() if not busy else -1
        if self._work.note(now, steps) >= idle_s and not busy:
            self._probed, self._work = Pulse(now, self._engine.steps()), None
            self._probe = asyncio.create_task(self._send(self._engine.probe()))

    async def _send(self, probe: Awaitable[None]) -> None:
        try:
            await probe
        except Exception as error:  # noqa: BLE001  # of any layer; `fault` finds dead engines
            logger.warning("the probe of an idle engine failed: %s", type(error).__name__)
        self._probe = self._probed = None
