"""`serve-app bench overload`: ten times the calls that a tier can answer, in virtual time.

The waiting calls, their places and the rule of admission are a Router's own (`leases/pool.py`,
`leases/admission.py`). The engine is the simulated 7B of `bench scaling`, with continuous batching,
so its time to a first token grows with its calls. The figures are the same on every machine.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from serve_app.config.runtime import DeadlinesConfig
from serve_app.core.errors import TierOverloaded
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease
from serve_app.leases.pool import LeasePool
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.overload_engine import DrivenEngine, SimulatedPlaces
from serve_app.offline.bench.overload_rules import RULES, Rule, TakeAll
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import percentile, ratio
from serve_app.offline.bench.virtual_loop import run_virtually
from serve_app.offline.simulation.engine import SimCall
from serve_app.offline.simulation.hardware import fast_tier
from serve_app.offline.simulation.trace import DOCUMENTS, Shape, Trace, draw_trace

Times = npt.NDArray[np.float64]

FLOOD = 10.0
"""The overload's rate as a multiple of the capacity."""
USUAL = 0.8
"""The rate before and after as a multiple of the capacity."""
BEFORE_S = 30.0
AFTER_S = 40.0
SETTLED_RATIO = 0.9
"""The part of a second's calls that begin in time once the tier has recovered."""
LEASE_S = 30.0
QUEUED_MAX = 1024
FILLS = (0.6, 0.7, 0.8, 0.9, 1.0)
FLOOD_PER_S = 20.0
"""Calls a second for each replica, far more than a replica can answer."""
STEADY_S = 60.0
"""The measured half of a run at a steady load; the first half fills the engines."""


@dataclass(frozen=True, slots=True)
class Tier:
    """The size of the simulated tier."""

    replicas: int
    places: int


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a call; times are seconds after its arrival."""

    arrived_s: float
    first_s: float | None
    rejected_s: float | None
    cpu_s: float


def overload(
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the simulated tier.")] = 8,
    places: Annotated[int, typer.Option(min=1, help="Places of a replica.")] = 256,
    deadline_s: Annotated[
        float, typer.Option(min=0.1, help="Deadline of each call's first token.")
    ] = 2.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the overload.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Send a tier ten times the calls that it can answer; count those that begin in time."""
    check_outputs(log)
    machine = describe_machine()
    grid = measure(Tier(replicas, places), deadline_s, seconds, seed)
    print_report(build_console(), machine, [grid])
    if log is not None:
        command = f"serve-app bench overload --replicas={replicas} --places={places}"
        command += f" --deadline-s={deadline_s:g} --seconds={seconds:g} --seed={seed}"
        append_section(log, render_section(machine, command, [grid]))


def measure(
    tier: Tier, deadline_s: float, seconds: float, seed: int, rules: Sequence[str] = tuple(RULES)
) -> Grid:
    """One row for each rule."""
    peak_per_s = find_peak(tier, deadline_s, seed)
    trace = draw_overload(peak_per_s, seconds, seed)
    rows = []
    for name in rules:
        fates = run_virtually(run(trace, tier, deadline_s, RULES[name]))
        rows.append((name, *_cells(fates, peak_per_s, deadline_s, seconds)))
    title = (
        f"{FLOOD:g} times the peak of {peak_per_s:.1f} calls/s for {seconds:g} s, "
        f"{tier.replicas} replicas with {tier.places} places each, first token within "
        f"{deadline_s:g} s"
    )
    header = (
        "rule",
        "goodput / peak",
        "accepted in time",
        "recovery s",
        "rejected",
        "rejection p99 ms",
        "rejection CPU p99 ms",
    )
    return Grid(title, header, rows)


def find_peak(tier: Tier, deadline_s: float, seed: int) -> float:
    """The most calls a second that begin in time at any steady load, without a rule."""
    flood_per_s = FLOOD_PER_S * tier.replicas
    flood = _draw("flood", 2 * STEADY_S, 1.0, np.ones_like, flood_per_s, seed)
    saturated_per_s = run_virtually(_count_ended(flood, tier)) / STEADY_S
    goodputs = []
    for fill in FILLS:
        trace = _draw("steady", 2 * STEADY_S, 1.0, np.ones_like, fill * saturated_per_s, seed)
        fates = run_virtually(run(trace, tier, deadline_s, TakeAll))
        settled = [fate for fate in fates if fate.arrived_s >= STEADY_S]
        goodputs.append(sum(in_time(fate, deadline_s) for fate in settled) / STEADY_S)
    return max(goodputs)


def draw_overload(peak_per_s: float, seconds: float, seed: int) -> Trace:
    """The usual load, ten times the peak load, and the usual load again."""

    def rate(at_s: Times) -> Times:
        return np.where((at_s >= BEFORE_S) & (at_s < BEFORE_S + seconds), FLOOD, USUAL)

    return _draw("overload", BEFORE_S + seconds + AFTER_S, FLOOD, rate, peak_per_s, seed)


def _draw(
    name: str,
    length_s: float,
    peak: float,
    rate: Callable[[Times], Times],
    per_s: float,
    seed: int,
) -> Trace:
    return draw_trace(Shape(name, length_s, peak, rate, *DOCUMENTS), per_s, seed)


def build_tier(tier: Tier) -> tuple[LeasePool, dict[Address, DrivenEngine]]:
    """A Router's places on the replicas, and their engines."""
    ray = SimulatedPlaces(tier.replicas, tier.places, QUEUED_MAX)
    pool = LeasePool(
        ray.open, ray.close, reuse_s=0.25, age_max_s=2.0, session_s=0.0, asks_by_session=False
    )
    return pool, {address: DrivenEngine(fast_tier().timing) for address in ray.replicas}


async def run(
    trace: Trace, tier: Tier, deadline_s: float, build: Callable[[LeasePool], Rule]
) -> list[Fate]:
    """The fate of every call of a trace."""
    overloaded = OverloadedTier(tier, deadline_s, build)
    await _send(trace, overloaded.call)
    return overloaded.fates


class OverloadedTier:
    """A tier under a rule, and what became of its calls."""

    def __init__(self, tier: Tier, deadline_s: float, build: Callable[[LeasePool], Rule]) -> None:
        self._pool, self._engines = build_tier(tier)
        self._limits = DeadlinesConfig(lease_s=LEASE_S, first_token_s=deadline_s)
        self._rule = build(self._pool)
        self._loop = asyncio.get_running_loop()
        self.fates: list[Fate] = []

    async def call(self, sim: SimCall) -> None:
        """One call from its arrival to its last token, or until it is rejected."""
        arrived_s, began = self._loop.time(), perf_counter()
        try:
            lease = await self._acquire(sim)
        except (TierOverloaded, TimeoutError):
            rejected_s = self._loop.time() - arrived_s
            cpu_s = perf_counter() - began if rejected_s == 0 else 0.0
            self.fates.append(Fate(arrived_s, None, rejected_s, cpu_s))
        else:
            await self._generate(sim, lease, arrived_s)
        finally:
            self._rule.ended(sim)

    async def _acquire(self, sim: SimCall) -> Lease:
        deadlines = self._limits.start(self._loop.time())
        self._rule.check(sim, deadlines)
        place_at = deadlines.place_at(self._loop.time(), stream=True)
        async with asyncio.timeout_at(min(place_at, self._rule.place_at(deadlines))):
            return await self._pool.acquire()

    async def _generate(self, sim: SimCall, lease: Lease, arrived_s: float) -> None:
        self._rule.placed(sim)
        first, end = self._engines[lease.address].begin(sim)
        await first
        self.fates.append(Fate(arrived_s, self._loop.time() - arrived_s, None, 0.0))
        self._rule.began(sim)
        await end
        self._pool.release(lease, reusable=True)


async def _count_ended(trace: Trace, tier: Tier) -> int:
    """The calls that have ended in the second half of a trace."""
    pool, engines = build_tier(tier)
    ended = 0

    async def call(sim: SimCall) -> None:
        nonlocal ended
        try:
            lease = await pool.acquire()
        except TierOverloaded:
            return
        await engines[lease.address].begin(sim)[1]
        ended += trace.length_s / 2 < asyncio.get_running_loop().time() <= trace.length_s
        pool.release(lease, reusable=True)

    await _send(trace, call)
    return ended


async def _send(trace: Trace, send: Callable[[SimCall], Awaitable[None]]) -> None:
    """Send each call of a trace at its time, and wait for the answers."""
    loop = asyncio.get_running_loop()
    tasks = []
    for at_s, prompt, output in zip(
        trace.arrived_s.tolist(), trace.prompt.tolist(), trace.output.tolist(), strict=True
    ):
        await asyncio.sleep(max(0.0, at_s - loop.time()))
        tasks.append(asyncio.ensure_future(send(SimCall(at_s, prompt, output))))
    await asyncio.wait(tasks)
    await _end_all()


async def _end_all() -> None:
    """End the requests for places that stand for no call."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def in_time(fate: Fate, deadline_s: float) -> bool:
    """Whether the first token came by the deadline."""
    return fate.first_s is not None and fate.first_s <= deadline_s


def _cells(
    fates: Sequence[Fate], peak_per_s: float, deadline_s: float, seconds: float
) -> Sequence[str]:
    end_s = BEFORE_S + seconds
    flood = [fate for fate in fates if BEFORE_S <= fate.arrived_s < end_s]
    good = sum(in_time(fate, deadline_s) for fate in flood)
    accepted = [fate for fate in flood if fate.first_s is not None]
    rejected = [fate for fate in flood if fate.rejected_s is not None]
    waits = [1000 * (fate.rejected_s or 0.0) for fate in rejected]
    cpu = [1000 * fate.cpu_s for fate in rejected if not fate.rejected_s]
    return (
        f"{ratio(good / seconds, peak_per_s):.3f}",
        f"{ratio(good, len(accepted)):.4f}",
        _render_recovery(find_recovery(fates, end_s, deadline_s)),
        f"{ratio(len(rejected), len(flood)):.3f}",
        f"{percentile(waits, 0.99):.0f}" if waits else "-",
        f"{percentile(cpu, 0.99):.3f}" if cpu else "-",
    )


def find_recovery(fates: Sequence[Fate], end_s: float, deadline_s: float) -> float:
    """Seconds from the end of the overload until each second's calls begin in time."""
    seconds = range(int(AFTER_S))
    settled = [
        _settled(
            [fate for fate in fates if end_s + n <= fate.arrived_s < end_s + n + 1], deadline_s
        )
        for n in seconds
    ]
    late = [n for n in seconds if not settled[n]]
    if not late:
        return 0.0
    return late[-1] + 1.0 if late[-1] + 1 < len(settled) else math.inf


def _settled(fates: Sequence[Fate], deadline_s: float) -> bool:
    return sum(in_time(fate, deadline_s) for fate in fates) >= SETTLED_RATIO * len(fates)


def _render_recovery(seconds: float) -> str:
    return f"> {AFTER_S:.0f}" if math.isinf(seconds) else f"{seconds:.0f}"
