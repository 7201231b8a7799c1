"""`serve-app bench prefix-queue`: which call gets a freed place and which is refused, on a trace.

The waiting calls, their places, the choice of a replica and the rule of admission are a Router's
own (`leases/`). The replicas are simulated, with their tables and prefix caches. Each has few
places, so that calls wait in the Router. The figures are the same on every machine.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from serve_app.config.runtime import DeadlinesConfig
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import WouldBeLate
from serve_app.leases.admission import Admission
from serve_app.leases.board import ReplicaBoard, Seat
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease
from serve_app.leases.load import EngineLoads
from serve_app.leases.order import NO_CLAIM
from serve_app.leases.pool import LeasePool
from serve_app.leases.prefix_choice import PrefixChoice, PrefixPlan
from serve_app.leases.ranking import Ranking
from serve_app.leases.replica_states import ReplicaStates
from serve_app.leases.state_frames import Keys
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.lease_trials import build_addresses
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.prefix_places import DrivenNode, RankedPlaces
from serve_app.offline.bench.prefix_trace import draw_calls
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.virtual_loop import run_virtually
from serve_app.offline.simulation.hardware import SHARING_GPUS, sharing_timing
from serve_app.offline.simulation.prefix_engine import Holders, Node, SharingCall
from serve_app.offline.simulation.prefix_fleet import WARM_RATIO
from serve_app.offline.simulation.prefix_policies import REPORT_S, Report
from serve_app.offline.simulation.prefix_trace import PrefixCall, read_trace

PATIENCE_S = 3600.0
TOKEN = "0" * 32
HEADER = (
    "rule",
    "hits",
    "first token mean s",
    "p50 s",
    "p99 s",
    "longest s",
    "GPU-s of reading",
    "refused",
    "in time",
    "late",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`gains`: calls gain by a place. `deadline_s`: of each first token. `promised`: calls are
    refused by what the replicas promise, otherwise by the Router's own calls."""

    gains: bool
    deadline_s: float | None = None
    promised: bool = True


@dataclass(frozen=True, slots=True)
class Fleet:
    """How much of everything there is."""

    replicas: int
    places: int
    routers: int


def prefix_queue(
    trace: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A Mooncake trace.")],
    replicas: Annotated[int, typer.Option(min=1, help="Number of replicas.")] = 8,
    places: Annotated[int, typer.Option(min=1, help="Places of a replica.")] = 8,
    routers: Annotated[str, typer.Option(help="Numbers of Routers, separated by commas.")] = "1,8",
    load: Annotated[
        float,
        typer.Option(
            min=0.01, help="The work of reading all prompts without a cache, by what replicas can."
        ),
    ] = 1.0,
    deadline_s: Annotated[
        float, typer.Option(min=0.1, help="Deadline of each call's first token.")
    ] = 5.0,
    calls: Annotated[int, typer.Option(min=10, help="About how many calls a run has.")] = 6_000,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Simulate which call gets a freed place, on a trace of calls that share beginnings."""
    counts = parse_counts(routers)
    check_outputs(log)
    machine = describe_machine()
    drawn = draw_calls(read_trace(trace), replicas, load, calls, 3.0, seed)
    fleets = [Fleet(replicas, places, count) for count in counts]
    grids = [build_grid(fleet, drawn, deadline_s, seed) for fleet in fleets]
    print_report(build_console(), machine, grids)
    if log is not None:
        command = (
            f"serve-app bench prefix-queue --trace={trace.name} --replicas={replicas} "
            f"--places={places} --routers={routers} --load={load:g} --deadline-s={deadline_s:g} "
            f"--calls={calls} --seed={seed}"
        )
        append_section(log, render_section(machine, command, grids))


def list_rules(deadline_s: float) -> Mapping[str, Rule]:
    """The rules by their names in the report."""
    return {
        "order of arrival": Rule(gains=False),
        "gain and age": Rule(gains=True),
        "deadline, order of arrival, own calls": Rule(False, deadline_s, promised=False),
        "deadline, order of arrival, promised": Rule(False, deadline_s),
        "deadline, gain and age, promised": Rule(True, deadline_s),
    }


def build_grid(fleet: Fleet, calls: Sequence[PrefixCall], deadline_s: float, seed: int) -> Grid:
    """A row for each rule."""
    rows = []
    for name, rule in list_rules(deadline_s).items():
        fates = run_virtually(run(fleet, calls, rule, seed))
        rows.append((name, *_cells(fates, calls, deadline_s)))
    title = (
        f"{fleet.replicas} replicas with {fleet.places} places each, {fleet.routers} Routers, "
        f"first token within {deadline_s:g} s"
    )
    return Grid(title, HEADER, rows)


async def run(
    fleet: Fleet, calls: Sequence[PrefixCall], rule: Rule, seed: int
) -> list[SharingCall]:
    """The calls, those that were refused without a first token."""
    queued = QueuedFleet(fleet, rule, seed)
    reporting = asyncio.ensure_future(queued.report())
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)  # Not for secrets: the same seed, the same run.
    tasks = []
    for call in calls:
        await asyncio.sleep(max(0.0, call.arrived_s - loop.time()))
        router = chance.randrange(fleet.routers)
        tasks.append(asyncio.ensure_future(queued.answer(call, router)))
    fates = await asyncio.gather(*tasks)
    reporting.cancel()
    await _end_all()
    return fates


async def _end_all() -> None:
    """End the requests for places that stand for no call."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class QueuedFleet:
    """Replicas with few places, and the Routers before them."""

    def __init__(self, fleet: Fleet, rule: Rule, seed: int) -> None:
        timing, holders = sharing_timing(), Holders()
        addresses = build_addresses(fleet.replicas, 1)
        self._nodes = {
            address: DrivenNode(Node(index, timing, holders))
            for index, address in enumerate(addresses)
        }
        self._seats = {one.node.name: Seat(at, TOKEN) for at, one in self._nodes.items()}
        places = RankedPlaces(
            {name: seat.address for name, seat in self._seats.items()}, fleet.places
        )
        self._routers = [
            QueueingRouter(self._seats, places, rule, random.Random(seed + 1 + number))
            for number in range(fleet.routers)
        ]

    async def report(self) -> None:
        """Tell all Routers the state of the replicas, again and again."""
        while True:
            for one in self._nodes.values():
                told = Report(one.node)
                for router in self._routers:
                    router.hear(told, self._seats[told.name])
            await asyncio.sleep(REPORT_S)

    async def answer(self, call: PrefixCall, number: int) -> SharingCall:
        """One call from its arrival to its last token, or until it is refused."""
        shared, router = SharingCall(call, number), self._routers[number]
        try:
            await router.answer(shared, self._nodes)
        except (WouldBeLate, TimeoutError):
            shared.spilled = True
        return shared


class QueueingRouter:
    """One Router's calls on the tier."""

    def __init__(
        self, seats: Mapping[str, Seat], places: RankedPlaces, rule: Rule, chance: random.Random
    ) -> None:
        board = ReplicaBoard()
        board.publish(seats)
        self._states = ReplicaStates(EngineLoads())
        self._pool = LeasePool(
            places.open,
            places.close,
            reuse_s=0.25,
            age_max_s=2.0,
            session_s=0.0,
            asks_by_session=False,
            ranked=places.ranked,
        )
        self._choice = PrefixChoice(
            board, self._states, self._pool.in_use_at, lambda address: False, chance
        )
        self._admission = Admission(self._pool)
        self._limits = DeadlinesConfig(lease_s=PATIENCE_S, first_token_s=rule.deadline_s)
        self._rule = rule
        self._loop = asyncio.get_running_loop()

    def hear(self, told: Report, seat: Seat) -> None:
        """A replica reports."""
        if told.changes or told.snapshot or told.version == 0:
            keys = Keys(told.version, told.changes, whole=told.snapshot or told.version == 0)
            self._states.note_keys(told.name, 1, keys)
        self._states.note_load(told.name, seat, told.load)

    async def answer(self, call: SharingCall, nodes: Mapping[Address, DrivenNode]) -> None:
        """Place a call, and wait for its end.

        Raises:
            WouldBeLate: it could not begin in time.
            TimeoutError: it has waited for too long.
        """
        plan = self._choice.plan(call.call.keys, call.prompt, self._loop.time())
        lease = await self._acquire(plan)
        choice = self._choice.note(plan, lease.address, self._loop.time())
        self._admission.firsts.begin(call, self._loop.time())
        first, end = nodes[lease.address].begin(call)
        await first
        if choice is not None:
            self._choice.end(choice)
        self._admission.firsts.end(call, self._loop.time())
        await end
        self._pool.release(lease, reusable=True)

    async def _acquire(self, plan: PrefixPlan) -> Lease:
        promised_s = plan.first_token_s if self._rule.promised else None
        ranking = plan.ranking if self._rule.gains else without_gains(plan.ranking)
        deadlines: Deadlines = self._limits.start(self._loop.time())
        self._admission.check(NO_CLAIM, deadlines, promised_s)
        place_at = self._admission.place_at(deadlines, promised_s)
        async with asyncio.timeout_at(None if math.isinf(place_at) else place_at):
            return await self._pool.acquire(ranking=ranking)


def without_gains(ranking: Ranking) -> Ranking:
    """The same wishes, but no place is worth more to the call than another."""
    return replace(ranking, read_s={}, mean_read_s=0.0)


def _cells(
    fates: Sequence[SharingCall], calls: Sequence[PrefixCall], deadline_s: float
) -> Sequence[str]:
    start_s = WARM_RATIO * calls[-1].arrived_s
    counted = [call for call in fates if call.arrived_s >= start_s]
    begun = [call for call in counted if not call.spilled]
    waits = sorted(call.first_token_s - call.arrived_s for call in begun)
    prompt, cached = sum(call.prompt for call in begun), sum(call.cached for call in begun)
    in_time = sum(wait_s <= deadline_s for wait_s in waits)
    return (
        f"{cached / prompt:.3f}",
        f"{sum(waits) / len(waits):.3f}",
        f"{waits[len(waits) // 2]:.3f}",
        f"{waits[int(0.99 * len(waits))]:.2f}",
        f"{waits[-1]:.1f}",
        f"{SHARING_GPUS * (prompt - cached) * sharing_timing().token_s:,.0f}",
        f"{1 - len(begun) / len(counted):.3f}",
        f"{in_time / len(counted):.3f}",
        f"{(len(begun) - in_time) / len(counted):.3f}",
    )
