"""A replica's watch of its engine: dead, stuck, slow, idle, paused on purpose."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.core.call import Endpoint
from serve_app.replica.liveness import TICK_S, EngineFault, EngineWatch, WatchPlan
from tests.replica.fake_engine import FakeEngine

STUCK_S, IDLE_S = 8.0, 30.0
PLAN = WatchPlan(STUCK_S, IDLE_S, Endpoint.COMPLETIONS)


class Watched:
    """A watch, its engine and the time, which passes by looks."""

    def __init__(self, plan: WatchPlan = PLAN) -> None:
        self.engine = FakeEngine()
        self.reported: list[EngineFault] = []
        self.now = 100.0
        self.watch = EngineWatch(self.engine, plan, self.reported.append)

    async def pass_time(self, seconds: float, *, step_every_s: float | None = None) -> None:
        """Let time pass; the engine makes its steps meanwhile."""
        for tick in range(1, round(seconds / TICK_S) + 1):
            self.now += TICK_S
            if step_every_s is not None and tick % round(step_every_s / TICK_S) == 0:
                self.engine.made += 1
            self.watch.look(self.now)
            for _ in range(3):  # A ping or a probe begins, is answered, and is noted.
                await asyncio.sleep(0)


@pytest.mark.parametrize("fault", [EngineFault.DEAD, EngineFault.CLOSED])
async def test_a_fault_that_is_known_is_reported_at_once_and_once(fault: EngineFault) -> None:
    """At the next look, whatever the engine was doing."""
    watched = Watched()
    await watched.pass_time(1)
    watched.engine.known = fault
    await watched.pass_time(1)
    assert watched.reported == [fault]
    assert watched.watch.fault is fault


async def test_an_engine_that_shows_no_life_is_stuck() -> None:
    """Neither a step nor the answer to a ping, with requests or without."""
    watched = Watched()
    watched.engine.has_requests = True
    await watched.pass_time(5, step_every_s=0.1)
    watched.engine.loop_turns = False
    await watched.pass_time(STUCK_S - 2 * TICK_S)
    assert watched.reported == []
    await watched.pass_time(1)
    assert watched.reported == [EngineFault.STUCK]


async def test_an_idle_engine_whose_loop_stops_is_stuck_too() -> None:
    """Pings find it before a call does."""
    watched = Watched()
    await watched.pass_time(5)
    watched.engine.loop_turns = False
    await watched.pass_time(STUCK_S + 3)
    assert watched.reported == [EngineFault.STUCK]


async def test_a_slow_engine_is_left_alone() -> None:
    """Long steps, between which it answers nothing, for as long as it likes."""
    watched = Watched()
    watched.engine.has_requests = True
    watched.engine.loop_turns = False
    await watched.pass_time(20 * STUCK_S, step_every_s=STUCK_S - 1)
    assert watched.reported == []


async def test_an_engine_that_was_stopped_for_a_moment_is_left_alone() -> None:
    """SIGSTOP and SIGCONT within the time that an engine may be silent."""
    watched = Watched()
    await watched.pass_time(5)
    for _ in range(3):
        watched.engine.loop_turns = False
        await watched.pass_time(STUCK_S - 3)
        watched.engine.made += 1
        await watched.pass_time(TICK_S)
    assert watched.reported == []


async def test_an_engine_that_computes_nothing_but_answers_is_alive() -> None:
    """For example while all of its calls wait for their grammar."""
    watched = Watched()
    watched.engine.has_requests = True
    await watched.pass_time(20 * STUCK_S)
    assert watched.reported == []


async def test_a_ping_that_fails_is_an_answer() -> None:
    """An engine of another version, without the ping, is not killed for that."""
    watched = Watched()
    watched.engine.token.set()
    watched.engine.error = RuntimeError("no such method")
    await watched.pass_time(5 * STUCK_S)
    assert watched.reported == []


async def test_time_in_which_the_replica_did_not_run_does_not_count() -> None:
    """A replica that was stopped, or got no CPU, has not read what its engine sent."""
    watched = Watched()
    watched.engine.has_requests = True
    watched.engine.loop_turns = False
    await watched.pass_time(1)
    watched.now += 1000
    await watched.pass_time(1)
    assert watched.reported == []


async def test_an_idle_engine_is_probed() -> None:
    """Once in each idle time; a token is a sign of life."""
    watched = Watched()
    watched.engine.token.set()
    await watched.pass_time(IDLE_S - 1)
    assert watched.engine.probes == 0
    await watched.pass_time(2)
    assert watched.engine.probes == 1
    await watched.pass_time(2 * IDLE_S + 1)
    assert watched.engine.probes == 3
    assert watched.reported == []


async def test_a_busy_engine_is_not_probed() -> None:
    """Its steps show that it works; so do calls that came and went between two looks."""
    watched = Watched()
    watched.engine.has_requests = True
    await watched.pass_time(2 * IDLE_S)
    watched.engine.has_requests = False
    await watched.pass_time(2 * IDLE_S, step_every_s=5)
    assert watched.engine.probes == 0


async def test_an_idle_engine_that_makes_no_token_is_stuck() -> None:
    """Its loop answers, but a worker behind it is gone."""
    watched = Watched()
    await watched.pass_time(IDLE_S + STUCK_S - 1)
    assert watched.reported == []
    await watched.pass_time(2)
    assert watched.reported == [EngineFault.STUCK]


async def test_an_engine_that_is_paused_on_purpose_is_left_alone() -> None:
    """It is neither probed nor stuck, also when the pause came with a probe, or ends."""
    watched = Watched()
    watched.engine.paused = True
    await watched.pass_time(4 * IDLE_S)
    assert watched.engine.probes == 0
    watched.engine.paused = False
    await watched.pass_time(IDLE_S + 2)
    watched.engine.paused = True
    await watched.pass_time(4 * IDLE_S)
    watched.engine.paused = False
    await watched.pass_time(STUCK_S - 1)
    watched.engine.token.set()
    await watched.pass_time(1)
    assert watched.reported == []


async def test_the_watch_can_be_switched_off() -> None:
    """Then only what vLLM knows by itself counts."""
    watched = Watched(replace(PLAN, stuck_s=None, idle_probe_s=None))
    watched.engine.loop_turns = False
    await watched.pass_time(2 * IDLE_S)
    assert (watched.reported, watched.engine.probes) == ([], 0)
    watched.engine.known = EngineFault.DEAD
    await watched.pass_time(TICK_S)
    assert watched.reported == [EngineFault.DEAD]


async def test_an_engine_that_cannot_be_pinged_is_not_taken_for_stuck() -> None:
    """Its death is all that can be known."""
    engine = FakeEngine()
    engine.can_be_pinged = engine.loop_turns = False
    watch = EngineWatch(engine, PLAN, pytest.fail)
    for tick in range(round(4 * IDLE_S / TICK_S)):
        watch.look(tick * TICK_S)
    assert engine.probes == 0


async def test_the_watch_ends_with_a_fault() -> None:
    """Its task looks by itself, and stops when it has reported."""
    watched = Watched()
    watched.engine.known = EngineFault.DEAD
    async with asyncio.timeout(5):
        await watched.watch.run()
    assert watched.reported == [EngineFault.DEAD]
