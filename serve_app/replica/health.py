"""The health of a replica: what Ray and Routers are told, and the end of a replica at a fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serve_app.replica.blocked_loop import LoopWatch
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.liveness import EngineFault, EngineWatch, WatchedEngine, WatchPlan
from serve_app.replica.vllm_engine import exit_later, kill_engine

logger = logging.getLogger("ray.serve")

LEASE_LEFT_S = 0.5
"""How long leases live on a replica that is given up: until then Ray counts their places as taken,
and sends fewer calls there than to replicas that work."""

EXIT_S = 10.0
"""How long Ray may take to end a replica that is given up, before the replica ends itself: a drain
would wait for answers that never end, and a controller that is down ends nothing."""


HELD_PER_PERIOD = 1.5
"""Longer than the longest period of Ray's (10 % above the config's): the next check then follows as
soon as one has returned, and one is always waiting."""


def choose_hold_s(period_s: float, timeout_s: float) -> float:
    """How long a check of Ray may wait; a check that is not answered in time counts as failed."""
    return min(HELD_PER_PERIOD * period_s, timeout_s / 2)


class ReplicaHealth:
    """Watches the engine of one replica; at a fault it ends what the replica holds."""

    def __init__(
        self,
        plan: WatchPlan,
        *,
        kill: Callable[[], None] = kill_engine,
        exit_soon: Callable[[float], None] = exit_later,
    ) -> None:
        self._plan, self._kill, self._exit_soon = plan, kill, exit_soon
        self._checks = HeldChecks()
        self._watch: EngineWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._leases: LeaseTable | None = None
        self._loop: LoopWatch | None = None

    def start(self, engine: WatchedEngine, leases: LeaseTable) -> None:
        """Begin to watch the engine, whose places the leases hold."""
        self._leases = leases
        self._watch = EngineWatch(engine, self._plan, self._give_up)
        self._watching = asyncio.create_task(self._watch.run())
        self._watching.add_done_callback(self._stop_loop_watch)
        if self._plan.stuck_s is not None:
            watch = self._watch
            self._loop = LoopWatch(lambda: watch.looks, self._plan.stuck_s, self._end_now)

    def close(self) -> None:
        """Stop watching: the replica ends."""
        self._checks.release()
        if self._loop is not None:
            self._loop.close()
        if self._watching is not None:
            self._watching.cancel()
        if self._watch is not None:
            self._watch.close()

    def _stop_loop_watch(self, watching: asyncio.Task[None]) -> None:
        """The watch has ended, so its looks no longer show that the loop turns."""
        if self._loop is not None:
            self._loop.close()
        if not watching.cancelled() and (error := watching.exception()) is not None:
            logger.error("the engine is no longer watched", exc_info=error)

    @property
    def failed(self) -> bool:
        """Whether there was a fault, so that the replica will be replaced."""
        return self._watch is not None and self._watch.fault is not None

    async def wait(self, hold_s: float) -> None:
        """Let a health check of Ray wait for a fault, for up to `hold_s`."""
        await self._checks.wait(hold_s)

    def _end_now(self) -> None:
        """The event loop is blocked: nothing can be told, and Ray notices the end at once."""
        logger.error("the replica's event loop is blocked: the replica ends")
        self._exit_soon(0.0)

    def _give_up(self, fault: EngineFault) -> None:
        logger.error("%s: Ray replaces this replica", fault.value)
        if self._leases is not None:
            self._leases.hasten(LEASE_LEFT_S)
        if fault is EngineFault.STUCK:
            self._kill()
        self._checks.release()
        self._exit_soon(EXIT_S)


class HeldChecks:
    """Lets one of Ray's health checks at a time wait for a fault.

    Serve's controller asks every `health_check_period_s`, but it looks for the answer to a check
    that it has sent several times a second. So a check that waits for the fault tells the
    controller of it at once, and costs the controller no further message.
    """

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._began = self._held = False

    def release(self) -> None:
        """Let the check that waits, and all others, return at once."""
        self._released.set()

    async def wait(self, hold_s: float) -> None:
        """Return after `hold_s`, or as soon as there is a fault.

        The first check belongs to the start of the replica. A check that comes while another one
        waits is of a controller that has been restarted and takes its replicas over. Both return at
        once.
        """
        first, self._began = not self._began, True
        if first or self._held:
            return
        self._held = True
        try:
            async with asyncio.timeout(hold_s):
                await self._released.wait()
        except TimeoutError:
            return
        finally:
            self._held = False
