"""Connections of a Router and of HAProxy to a machine that can no longer be reached; no Ray."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serve_app.config.environment import HAPROXY_PROGRAM, ray_environment
from serve_app.core.deadlines import Deadlines
from serve_app.core.peer_watch import PROBE_S, SILENT_S_MAX, UNREAD_S_MAX
from serve_app.leases.http1 import Address, ConnectionBroken, ConnectionPool, Exchange
from tests.config.test_haproxy import write_config
from tests.faults.network import ROOT, Machine, network, why_not
from tests.serve.service import wait_for

pytestmark = [
    pytest.mark.serve,
    pytest.mark.faults,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be had"),
]

DOOR = """
import asyncio, sys
from pathlib import Path
from serve_app.replica.engine_http import EngineHTTPServer

async def app(scope, receive, send):
    quick = scope["path"] == "/quick"
    pause_s, chunk = (0.0, b"x" * 65536) if quick else (0.2, b"x")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] in ("/quick", "/slow"):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(pause_s)
    await send({"type": "http.response.body", "body": b"well"})

async def main():
    server = EngineHTTPServer(app, sys.argv[1])
    await server.wait_started()
    Path("/tmp/port").write_text(str(server.address[1]))
    await asyncio.sleep(3600)

asyncio.run(main())
"""
"""A replica's own HTTP server; `/slow` writes like a model, `/quick` as fast as it can, and other
paths end at once."""

GAP_S = 60.0
SPARE_S = 3.0
"""For a busy computer."""


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a replica's server."""
    with network(["replica"], tmp_path_factory.mktemp("network")) as machines:
        machine = machines["replica"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        machine.begin(sys.executable, "-c", DOOR, machine.address, environment=environment)
        port = machine.directory / "port"
        wait_for(port.exists, timeout_s=30, what="the replica listens")
        yield machine


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    """A Router's connections."""
    connections = ConnectionPool()
    yield connections
    connections.close()


@contextmanager
def haproxy(directory: Path, replica: Machine) -> Iterator[str]:
    """HAProxy as Ray starts it, before the machine in a Router's place: its URL."""
    port = int((replica.directory / "port").read_text())
    config = write_config(directory, backend_port=port)
    path = directory / "haproxy.cfg"
    path.write_text(path.read_text().replace(f"127.0.0.1:{port}", f"{replica.address}:{port}"))
    environment = {**os.environ, **ray_environment(), "PYTHONPATH": str(ROOT)}
    command = [environment[HAPROXY_PROGRAM], "-db", "-f", str(path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{config.http_options.port}"
        finally:
            process.kill()


async def begin(pool: ConnectionPool, replica: Machine, path: str) -> Exchange:
    """A stream that has begun."""
    address: Address = (replica.address, int((replica.directory / "port").read_text()))
    connection = await pool.take(address)
    request = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()
    now = asyncio.get_running_loop().time()
    deadlines = Deadlines(now, place_s=0, first_byte_s=120, gap_s=GAP_S, total_s=600)
    exchange = connection.begin(request, deadlines, stream=True)
    await exchange.head()
    return exchange


async def read_for(exchange: Exchange, seconds: float) -> int:
    """Read for so long: the bytes."""
    read, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        read += len(await exchange.read())
    return read


async def broken_after(exchange: Exchange) -> float:
    """The seconds until a stream breaks."""
    began_at = time.monotonic()
    with pytest.raises(ConnectionBroken):
        await read_for(exchange, 2 * GAP_S)
    return time.monotonic() - began_at


async def test_a_cut_wire_breaks_a_stream_long_before_its_gap(
    pool: ConnectionPool, replica: Machine
) -> None:
    """The kernel's probes find out; and a request that is sent meanwhile is not left waiting."""
    stream = await begin(pool, replica, "/slow")
    await read_for(stream, 1)
    silent = await begin(pool, replica, "/slow")
    replica.cut()
    sent = stream._connection._transport
    assert sent is not None
    sent.write(b"x")  # Bytes that nobody acknowledges, as those of a request on an idle connection.
    try:
        after = await asyncio.gather(broken_after(stream), broken_after(silent))
    finally:
        replica.mend()
    print(f"broken after {after[0]:.1f} s (bytes sent), {after[1]:.1f} s (only listening)")
    assert max(after) < SILENT_S_MAX + PROBE_S + SPARE_S < GAP_S
    stream.abandon()
    silent.abandon()


async def test_a_short_disturbance_costs_no_stream(pool: ConnectionPool, replica: Machine) -> None:
    """Half the time later the wire is mended, and the stream goes on."""
    stream = await begin(pool, replica, "/slow")
    await read_for(stream, 1)
    replica.cut()
    await asyncio.sleep(SILENT_S_MAX / 2)
    replica.mend()
    assert await read_for(stream, 10) > 10
    stream.abandon()


async def test_a_slow_client_is_not_a_cut_wire(pool: ConnectionPool, replica: Machine) -> None:
    """A Router that reads nothing for longer than `SILENT_S_MAX` loses no byte's worth."""
    stream = await begin(pool, replica, "/quick")
    await asyncio.sleep(SILENT_S_MAX + PROBE_S)
    assert stream._paused
    assert await read_for(stream, 2) > 1 << 20
    assert UNREAD_S_MAX > 300, "HAProxy's limit for a client that does not read"
    stream.abandon()


def test_haproxy_does_not_wait_for_a_router_that_is_gone(tmp_path: Path, replica: Machine) -> None:
    """A stream through a Router whose machine is cut breaks, although it has no time limit."""
    with haproxy(tmp_path, replica) as url, httpx.Client(base_url=url, timeout=90) as client:
        wait_for(lambda: answers(client), timeout_s=20, what="HAProxy finds the Router")
        with client.stream("GET", "/slow") as response, ThreadPoolExecutor() as pool:
            chunks = response.iter_raw()
            next(chunks)
            replica.cut()
            cut_at = time.monotonic()
            try:
                sent = pool.submit(outcome, url)
                with pytest.raises(httpx.RemoteProtocolError):
                    deque(chunks)
                broken_s = time.monotonic() - cut_at
                first = sent.result()
                sent_s = time.monotonic() - cut_at
                status = client.get("/well").status_code
            finally:
                replica.mend()
        print(
            f"stream broken after {broken_s:.1f} s, the call after the cut {first}, {sent_s:.1f} s"
        )
        assert max(broken_s, sent_s) < SILENT_S_MAX + PROBE_S + SPARE_S
        assert status == 503
        wait_for(lambda: answers(client), timeout_s=20, what="the Router is back")


def outcome(url: str) -> str:
    """What becomes of a call, which HAProxy sends on a connection that it has kept."""
    try:
        return str(httpx.get(f"{url}/well", timeout=90).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def answers(client: httpx.Client) -> bool:
    """Whether the Router answers through HAProxy."""
    try:
        return client.get("/well").status_code == 200
    except httpx.HTTPError:
        return False
