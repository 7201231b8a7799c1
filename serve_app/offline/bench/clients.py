"""`serve-app bench clients`: what a call costs in our HTTP/1.1 client, in aiohttp and in httpx.

All three send the same request to the same server, which runs in a process of its own, and read
every chunk of the answer. The CPU time is that of this process, and so of the client alone.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import process_time
from typing import Annotated

import aiohttp
import httpx
import typer
import uvloop

from serve_app.config.runtime import DeadlinesConfig
from serve_app.leases.http1 import ConnectionPool
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import ratio

PATH = "/v1/chat/completions"
HOST = "127.0.0.1"
WARM_UP_CALLS = 50
START_S = 10.0
_DEADLINES = DeadlinesConfig(lease_s=30, first_byte_s=30, gap_s=30, total_s=60)

Ask = Callable[[], Awaitable[int]]
"""One call; returns the bytes of its body."""


def clients(
    calls: Annotated[int, typer.Option(min=10, help="Calls of each client in a round.")] = 2000,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks of each answer.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Of each client; the cheapest counts.")] = 3,
    log: Annotated[Path | None, typer.Option(help="A log that gets a section.")] = None,
) -> None:
    """Compare the CPU time of a call in this service's HTTP client, in aiohttp and in httpx."""
    check_outputs(log)
    machine = describe_machine()
    with _responding() as port:
        body = b'{"stream":true,"max_tokens":%d}' % chunks
        measured = uvloop.run(measure_clients(port, body, calls, rounds))
    grid = build_grid(measured, chunks)
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench clients", [grid]))


def build_grid(measured: Mapping[str, float], chunks: int) -> Grid:
    """A row a client: CPU milliseconds of a call, and as a multiple of ours."""
    ours = next(iter(measured.values()))
    rows = [(name, f"{ms:.2f}", f"{ratio(ms, ours):.1f}") for name, ms in measured.items()]
    title = f"CPU of a call whose answer has {chunks} chunks, one call after another"
    return Grid(title, ("client", "CPU ms a call", "x ours"), rows)


async def measure_clients(
    port: int, body: bytes, calls: int, rounds: int = 1
) -> Mapping[str, float]:
    """CPU milliseconds of a call by client, ours first: the cheapest of the rounds, taken in turns.

    Raises:
        RuntimeError: two clients read bodies of different lengths.
    """
    async with _ours(port, body) as ours, _aiohttp(port, body) as theirs, _httpx(port, body) as x:
        asks: Mapping[str, Ask] = {"this service": ours, "aiohttp": theirs, "httpx": x}
        if len({await ask() for ask in asks.values()}) != 1:
            raise RuntimeError("the clients read different bodies")
        best = dict.fromkeys(asks, float("inf"))
        for _ in range(rounds):
            for name, ask in asks.items():
                best[name] = min(best[name], await _time(ask, calls))
    return best


async def _time(ask: Ask, calls: int) -> float:
    for _ in range(min(WARM_UP_CALLS, calls)):
        await ask()
    begin = process_time()
    for _ in range(calls):
        await ask()
    return 1e3 * (process_time() - begin) / calls


@asynccontextmanager
async def _ours(port: int, body: bytes) -> AsyncIterator[Ask]:
    pool = ConnectionPool()
    head = f"POST {PATH} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
    data = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()

    async def ask() -> int:
        connection = await pool.take((HOST, port))
        exchange = connection.begin(data, _DEADLINES.start(loop.time()), stream=True)
        await exchange.head()
        read = 0
        while chunk := await exchange.read():
            read += len(chunk)
        pool.give((HOST, port), connection)
        return read

    yield ask
    pool.close()


@asynccontextmanager
async def _aiohttp(port: int, body: bytes) -> AsyncIterator[Ask]:
    async with aiohttp.ClientSession() as session:

        async def ask() -> int:
            async with session.post(f"http://{HOST}:{port}{PATH}", data=body) as answer:
                return sum([len(chunk) async for chunk in answer.content.iter_any()])

        yield ask


@asynccontextmanager
async def _httpx(port: int, body: bytes) -> AsyncIterator[Ask]:
    async with httpx.AsyncClient(trust_env=False) as client:

        async def ask() -> int:
            async with client.stream("POST", f"http://{HOST}:{port}{PATH}", content=body) as answer:
                return sum([len(chunk) async for chunk in answer.aiter_raw()])

        yield ask


@contextmanager
def _responding() -> Iterator[int]:
    """The port of a server in a process of its own, which ends with the block."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "serve_app.offline.bench.responder", str(port)]
    with subprocess.Popen(command) as server:
        try:
            asyncio.run(_wait_for(port))
            yield port
        finally:
            server.terminate()


async def _wait_for(port: int) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
