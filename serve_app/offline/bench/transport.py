"""`serve-app bench transport`: what TLS between Router and engine costs.

The Router's client asks a replica's HTTP server, which runs in a process of its own before an
engine that does nothing but answer. Plain HTTP and TLS take turns, so other load affects both.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Annotated

import psutil
import typer
import uvloop

from serve_app.config.runtime import DeadlinesConfig
from serve_app.leases.http1 import Address, ConnectionPool
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import ratio

PATH = "/v1/chat/completions"
KINDS = ("plain", "tls")
WARM_UP_CALLS = 100
HANDSHAKES = 200
_DEADLINES = DeadlinesConfig(lease_s=30, first_byte_s=30, gap_s=30, total_s=60)


@dataclass
class Costs:
    """What calls have cost: of each round the CPU in ms a call, of each call its duration in ms."""

    client_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)
    durations_ms: list[float] = field(default_factory=list)
    connects_ms: list[float] = field(default_factory=list)

    def rows(self) -> dict[str, float]:
        """The numbers of the report: the cheapest round, and quantiles over all rounds."""
        return {
            "client: CPU ms a call": min(self.client_ms),
            "server: CPU ms a call": min(self.server_ms),
            "call, p50 ms": median(self.durations_ms),
            "call, p99 ms": quantiles(self.durations_ms, n=100)[98],
            "new connection, p50 ms": median(self.connects_ms),
        }


def transport(
    calls: Annotated[int, typer.Option(min=100, help="Calls of each kind in a round.")] = 2000,
    tokens: Annotated[int, typer.Option(min=1, help="Chunks of each answer.")] = 16,
    prompt_bytes: Annotated[int, typer.Option(min=0, help="Bytes of each prompt.")] = 8000,
    rounds: Annotated[int, typer.Option(min=1, help="Of each kind, in turns.")] = 5,
    log: Annotated[Path | None, typer.Option(help="A log that gets a section.")] = None,
) -> None:
    """Compare TLS with plain HTTP between a Router's client and a replica's server."""
    check_outputs(log)
    machine = describe_machine()
    body = json.dumps({"stream": True, "max_tokens": tokens, "prompt": "a" * prompt_bytes})
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind)) for kind in KINDS}
        measured = uvloop.run(measure(servers, body.encode(), calls, rounds))
    title = f"Calls of {prompt_bytes:,} bytes with {tokens} chunks, one after another"
    grid = build_grid(title, measured)
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench transport", [grid]))


def build_grid(title: str, measured: dict[str, Costs]) -> Grid:
    """A row a number: plain HTTP, TLS, and their ratio."""
    plain, tls = (measured[kind].rows() for kind in KINDS)
    rows = [
        (name, f"{ms:.3f}", f"{tls[name]:.3f}", f"{ratio(tls[name], ms):.2f}")
        for name, ms in plain.items()
    ]
    return Grid(title, ("", "plain HTTP", "TLS 1.3", "x plain"), rows)


@contextmanager
def serving(kind: str) -> Iterator[tuple[Address, psutil.Process]]:
    """A server in a process of its own, which ends with the block."""
    command = [sys.executable, "-m", "serve_app.offline.bench.engine_server", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            host, port, *pin = json.loads(server.stdout.readline())
            address: Address = (host, port, bytes.fromhex(pin[0])) if pin else (host, port)
            yield address, psutil.Process(server.pid)
        finally:
            server.terminate()


async def measure(
    servers: dict[str, tuple[Address, psutil.Process]], body: bytes, calls: int, rounds: int
) -> dict[str, Costs]:
    """The costs of each kind, in turns."""
    measured = {kind: Costs() for kind in servers}
    for _ in range(rounds):
        for kind, (address, process) in servers.items():
            await _run(address, process, body, calls, measured[kind])
    return measured


async def _run(
    address: Address, process: psutil.Process, body: bytes, calls: int, costs: Costs
) -> None:
    pool = ConnectionPool()
    for _ in range(WARM_UP_CALLS):
        await _ask(pool, address, body)
    client, server = process_time(), _cpu_s(process)
    durations = []
    for _ in range(calls):
        begun = perf_counter()
        await _ask(pool, address, body)
        durations.append(1e3 * (perf_counter() - begun))
    costs.client_ms.append(1e3 * (process_time() - client) / calls)
    costs.server_ms.append(1e3 * (_cpu_s(process) - server) / calls)
    costs.durations_ms += durations
    for _ in range(HANDSHAKES):
        pool.close()
        begun = perf_counter()
        pool.give(address, await pool.take(address))
        costs.connects_ms.append(1e3 * (perf_counter() - begun))
    pool.close()


async def _ask(pool: ConnectionPool, address: Address, body: bytes) -> None:
    connection = await pool.take(address)
    head = f"POST {PATH} HTTP/1.1\r\nhost: engine\r\ncontent-length: {len(body)}\r\n\r\n"
    deadlines = _DEADLINES.start(asyncio.get_running_loop().time())
    exchange = connection.begin(head.encode() + body, deadlines, stream=True)
    await exchange.head()
    while await exchange.read():
        pass
    pool.give(address, connection)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
