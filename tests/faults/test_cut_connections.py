"""A Router's connections to a replica whose machine can no longer be reached; without Ray."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from serve_app.core.deadlines import Deadlines
from serve_app.core.peer_watch import PROBE_S, SILENT_S_MAX, UNREAD_S_MAX
from serve_app.leases.http1 import Address, ConnectionBroken, ConnectionPool, Exchange
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
    pause_s, chunk = {"/quick": (0.0, b"x" * 65536), "/slow": (0.2, b"x")}[scope["path"]]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(pause_s)

async def main():
    server = EngineHTTPServer(app, sys.argv[1])
    await server.wait_started()
    Path("/tmp/port").write_text(str(server.address[1]))
    await asyncio.sleep(3600)

asyncio.run(main())
"""
"""A replica's own HTTP server; `/slow` writes like a model, `/quick` as fast as it can."""

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
