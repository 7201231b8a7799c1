"""`serve-app bench fairness`: what one tenant's flood costs the others, fair against plain FIFO.

The waiting calls and their places are a Router's own (`leases/pool.py`). The engine is simulated: a
call holds one of its places for the time that the call's tokens take. The time is virtual, so the
figures are the same on every machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from serve_app.config.fairness import FairnessConfig
from serve_app.leases.client import make_order
from serve_app.leases.lease import Lease
from serve_app.leases.order import Claim
from serve_app.leases.pool import LeasePool
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.lease_trials import HOUR_S, LocalOpener
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import percentile, ratio
from serve_app.offline.bench.virtual_loop import run_virtually

PREFILL_S = 0.3
TOKEN_S = 0.02
ANSWER_TOKENS = (20, 80)
"""Answers have between so many tokens, evenly: 0.7 to 1.9 s in a place."""
TENANTS = 4
QUIET_RATIO = 0.5
"""Part of the places that the quiet tenants keep busy."""
FLOOD = 10
"""The flood's rate as a multiple of one tenant's fair share of the places."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call: when it comes, whose it is, and how many tokens it generates."""

    at_s: float
    tenant: str
    tokens: int

    @property
    def service_s(self) -> float:
        """The time for which the call holds its place."""
        return PREFILL_S + self.tokens * TOKEN_S


def fairness(
    places: Annotated[int, typer.Option(min=1, help="Places of the simulated engine.")] = 128,
    seconds: Annotated[
        float, typer.Option(min=1, help="Length of the load, in virtual time.")
    ] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Flood one tier with the calls of one tenant, and time the first tokens of the others."""
    check_outputs(log)
    machine = describe_machine()
    grid = measure(places, seconds, seed)
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench fairness", [grid]))


def measure(places: int, seconds: float, seed: int) -> Grid:
    """The quiet tenants' waits: without a flood, with a flood first come first served, and fair."""
    quiet = list(draw_arrivals(places, seconds, seed, flood=False))
    flooded = sorted(
        [*quiet, *draw_arrivals(places, seconds, seed, flood=True)], key=lambda call: call.at_s
    )
    runs = {
        "quiet": run_virtually(run(quiet, places, None)),
        "flood, first come first served": run_virtually(run(flooded, places, None)),
        "flood, fair": run_virtually(run(flooded, places, FairnessConfig())),
    }
    base = percentile(runs["quiet"], 0.95)
    rows = [
        (
            name,
            f"{1000 * percentile(waits, 0.5):.0f}",
            f"{1000 * percentile(waits, 0.95):.0f}",
            f"{ratio(percentile(waits, 0.95), base):.2f}",
        )
        for name, waits in runs.items()
    ]
    title = (
        f"Time to the first token of {TENANTS - 1} quiet tenants while one tenant sends "
        f"{FLOOD} times its share ({places} places)"
    )
    return Grid(title, ("run", "p50 ms", "p95 ms", "p95 x quiet"), rows)


def draw_arrivals(places: int, seconds: float, seed: int, *, flood: bool) -> Iterator[Arrival]:
    """Poisson arrivals of the quiet tenants, or of the tenant that floods."""
    draw = random.Random(f"{seed} {flood}")
    service_s = PREFILL_S + sum(ANSWER_TOKENS) / 2 * TOKEN_S
    share_per_s = places / service_s / TENANTS
    tenants = ["flood"] if flood else [f"quiet-{n}" for n in range(1, TENANTS)]
    per_s = share_per_s * FLOOD if flood else places / service_s * QUIET_RATIO
    at_s = draw.expovariate(per_s)
    while at_s < seconds:
        yield Arrival(at_s, draw.choice(tenants), draw.randint(*ANSWER_TOKENS))
        at_s += draw.expovariate(per_s)


async def run(arrivals: list[Arrival], places: int, config: FairnessConfig | None) -> list[float]:
    """Seconds to the first token of each call of a quiet tenant."""

    def forget(lease: Lease) -> None:
        """Do nothing, because there is no replica to inform."""

    opener = LocalOpener(1, grants=places)
    pool = LeasePool(
        opener, forget, reuse_s=HOUR_S, age_max_s=HOUR_S, session_s=0.0, asks_by_session=False
    )
    pool.use_order(make_order(config))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    waits: list[float] = []

    async def call(arrival: Arrival) -> None:
        arrived = loop.time()
        lease = await pool.acquire(claim=Claim(arrival.tenant, 1.0, arrival.tokens))
        if arrival.tenant != "flood":
            waits.append((loop.time() - arrived) + PREFILL_S)
        await asyncio.sleep(arrival.service_s)
        pool.release(lease, reusable=True)

    tasks = []
    for arrival in arrivals:
        await asyncio.sleep(max(0.0, begin + arrival.at_s - loop.time()))
        tasks.append(loop.create_task(call(arrival)))
    others = [
        task for task, arrival in zip(tasks, arrivals, strict=True) if arrival.tenant != "flood"
    ]
    await asyncio.wait(others)
    await _end_all()
    return waits


async def _end_all() -> None:
    """End the calls that still wait, and the requests for places that stand for them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
