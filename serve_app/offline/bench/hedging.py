"""`serve-app bench hedging`: the slowest first tokens of a tier with hedging, and without.

The calls go through a Router's own client of a tier (`leases/client.py`) to servers in this process
that stand for engines. Each engine pauses now and then, as an engine does that computes a long
prompt. The arrivals, the times to the first token and the pauses are the same in each run.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

import httptools
import typer

from serve_app.config.hedging import HedgingConfig
from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.leases.client import LEASE_PATH, TierClient, UpstreamRequest
from serve_app.leases.hedging import HedgeFate
from serve_app.leases.http1 import Address
from serve_app.leases.signature import LeaseSigner, new_secret
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.lease_trials import LocalGrant
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import percentile, ratio

FIRST_S = 0.06
FIRST_SIGMA = 0.35
"""Times to a first token are log-normal with this median and spread."""
ANSWER_S = 0.1
"""From the first token to the last one."""
PAUSE_S = 0.8
PAUSE_EVERY_S = 20.0
"""An engine pauses so long, and so often on average: in 4 % of the time."""
WARM_S = 5.0
"""The first calls, from which the Router learns its quantile; they do not count."""

QUANTILES = (0.95, 0.98)
"""By which calls are late; 5 % more calls at most for each."""

_DEADLINES = DeadlinesConfig(lease_s=30, first_byte_s=30, gap_s=30, total_s=60)
_LEASES = LeaseConfig()
_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = b"1\r\nx\r\n"
_END = b"1\r\ny\r\n0\r\n\r\n"
_EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in each run."""

    replicas: int
    per_s: float
    seconds: float
    seed: int
    together: bool
    """Whether all engines pause at the same times."""

    def arrivals(self) -> Iterator[float]:
        """The times of the calls, in seconds."""
        draw = random.Random(f"arrivals {self.seed}")
        at_s = draw.expovariate(self.per_s)
        while at_s < WARM_S + self.seconds:
            yield at_s
            at_s += draw.expovariate(self.per_s)

    def pauses(self, replica: int) -> list[float]:
        """When the pauses of a replica begin."""
        draw = random.Random(f"pauses {self.seed} {0 if self.together else replica}")
        begins: list[float] = []
        at_s = WARM_S + draw.expovariate(1 / PAUSE_EVERY_S)
        while at_s < WARM_S + self.seconds:
            begins.append(at_s)
            at_s += PAUSE_S + draw.expovariate(1 / PAUSE_EVERY_S)
        return begins


@dataclass(slots=True)
class Run:
    """The times to the first token in seconds, and what the engines worked for them."""

    first_s: list[float] = field(default_factory=list)
    fates: Counter[HedgeFate] = field(default_factory=Counter)
    sent: int = 0
    """Calls that reached an engine."""
    completed: int = 0
    """Answers that an engine completed."""


class PausingEngine:
    """One engine, behind a port of its own."""

    def __init__(self, run: Run, pauses: list[float], seed: str) -> None:
        self._run = run
        self._pauses = pauses
        self._draw = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._server: asyncio.Server | None = None
        self.held = 0
        """Places that are granted."""
        self.connections: set[asyncio.Transport] = set()

    async def start(self) -> Address:
        """Open the port."""
        self._server = await self._loop.create_server(
            lambda: _EngineConnection(self), "127.0.0.1", 0, backlog=1024
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def close(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for transport in self.connections:
            transport.abort()
        await asyncio.sleep(0)  # the connections learn of their end in the next turn of the loop

    def first_s(self) -> float:
        """The time to the first token of a call that begins now."""
        self._run.sent += 1
        first_s = FIRST_S * self._draw.lognormvariate(0.0, FIRST_SIGMA)
        now_s = self._loop.time() - self._began
        for begin in self._pauses:
            if begin <= now_s + first_s and now_s < begin + PAUSE_S:
                return begin + PAUSE_S - now_s + first_s
        return first_s

    def completed(self) -> None:
        """An answer has been sent to its end."""
        self._run.completed += 1


class _EngineConnection(asyncio.Protocol):
    """One connection of the Router; a closed connection stops its generation."""

    def __init__(self, engine: PausingEngine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._engine.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._engine.connections.discard(self._transport)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        if self._url == LEASE_PATH.encode():
            self._engine.held -= 1
            self._write(_EMPTY)
        else:
            self._write(_HEAD)
            self._later(self._engine.first_s(), self._first)

    def _first(self) -> None:
        self._write(_CHUNK)
        self._later(ANSWER_S, self._end)

    def _end(self) -> None:
        self._write(_END)
        self._engine.completed()

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, callback)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class LeastHeld:
    """Grants places as Ray does: the better of two engines that are drawn."""

    def __init__(self, engines: dict[Address, PausingEngine], seed: str) -> None:
        self._engines = engines
        self._draw = random.Random(seed)
        self._granted = 0

    async def __call__(self, session: str | None = None) -> LocalGrant:
        """A place on one of the engines."""
        await asyncio.sleep(0)
        drawn = self._draw.sample(list(self._engines), 2)
        address = min(drawn, key=lambda one: self._engines[one].held)
        self._engines[address].held += 1
        self._granted += 1
        lease_id = f"lease-{self._granted}"
        return LocalGrant(lease_id, address, LeaseSigner(lease_id, new_secret()))


def hedging(
    replicas: Annotated[int, typer.Option(min=2, help="Replicas of the tier.")] = 4,
    per_s: Annotated[float, typer.Option(min=1, help="Calls a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each of six runs.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of arrivals, times and pauses.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Send a tier whose engines pause the same calls with hedging and without."""
    check_outputs(log)
    machine = describe_machine()
    grids = [measure(Load(replicas, per_s, seconds, seed, together)) for together in (False, True)]
    print_report(build_console(), machine, grids)
    if log is not None:
        command = f"serve-app bench hedging --replicas={replicas} --per-s={per_s:g}"
        command += f" --seconds={seconds:g} --seed={seed}"
        append_section(log, render_section(machine, command, grids))


def measure(load: Load) -> Grid:
    """One row without hedging, and one for each quantile."""
    runs = {"off": asyncio.run(send(load, None))}
    for quantile in QUANTILES:
        runs[f"after p{100 * quantile:g}"] = asyncio.run(
            send(load, HedgingConfig(quantile=quantile))
        )
    base = percentile(runs["off"].first_s, 0.99)
    rows = [(name, *_cells(run, base)) for name, run in runs.items()]
    pausing = "all engines pause at once" if load.together else "each engine pauses by itself"
    title = (
        f"{load.replicas} engines, {load.per_s:g} calls/s for {load.seconds:g} s; {pausing}, for "
        f"{PAUSE_S:g} s about every {PAUSE_EVERY_S:g} s"
    )
    header = (
        "hedging",
        "first token p50 ms",
        "p95 ms",
        "p99 ms",
        "p99 x off",
        "sent : calls",
        "won",
        "lost",
        "not sent",
    )
    return Grid(title, header, rows)


def _cells(run: Run, base: float) -> list[str]:
    points = [1000 * percentile(run.first_s, part) for part in (0.5, 0.95, 0.99)]
    fates = run.fates
    return [
        *(f"{point:.0f}" for point in points),
        f"{ratio(points[-1], 1000 * base):.2f}",
        f"{ratio(run.sent, run.sent - fates[HedgeFate.WON] - fates[HedgeFate.LOST]):.3f}",
        str(fates[HedgeFate.WON]),
        str(fates[HedgeFate.LOST]),
        str(fates[HedgeFate.NO_PLACE] + fates[HedgeFate.NO_BUDGET]),
    ]


async def send(load: Load, config: HedgingConfig | None) -> Run:
    """The calls of a load, each at its time."""
    run = Run()
    async with _tier(load, run, config) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def call(at_s: float) -> None:
            arrived = loop.time()
            request = UpstreamRequest("/v1/chat/completions", b"{}", "id", stream=True)
            async with client.exchange(request, _DEADLINES.start(arrived)) as answer:
                await answer.read()
                if at_s >= WARM_S:
                    run.first_s.append(loop.time() - arrived)
                while await answer.read():
                    pass

        calls: list[asyncio.Task[None]] = []
        for at_s in load.arrivals():
            await asyncio.sleep(max(0.0, began + at_s - loop.time()))
            calls.append(loop.create_task(call(at_s)))
        await asyncio.gather(*calls)
        run.fates = client.take_hedges()
    return run


@asynccontextmanager
async def _tier(load: Load, run: Run, config: HedgingConfig | None) -> AsyncIterator[TierClient]:
    engines: dict[Address, PausingEngine] = {}
    for number in range(load.replicas):
        engine = PausingEngine(run, load.pauses(number), f"first {load.seed} {number}")
        engines[await engine.start()] = engine
    client = TierClient("fast", LeastHeld(engines, f"places {load.seed}"), _LEASES)
    client.configure(_LEASES, hedging=config)
    try:
        yield client
    finally:
        client.close()
        await _end_all()
        client.close()  # the connections over which the last leases were ended
        for engine in engines.values():
            await engine.close()


async def _end_all() -> None:
    """End what still reports ended leases."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.gather(*others, return_exceptions=True)
