"""The door before an engine's app, and its first call."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.tiers.asgi import Message, Receive, Send
from serve_app.tiers.engine_http import EngineHTTPServer, LeasedApp, warm_up
from serve_app.tiers.engine_stats import EngineStats
from serve_app.tiers.lease_table import LeaseTable
from tests.tiers.replica import Stats


class Engine:
    """An app that keeps what it was asked, and answers or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.bodies: list[bytes] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        message: Message = await receive()
        self.bodies.append(message.get("body", b""))
        if self.fails:
            raise RuntimeError("no such model")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


def client(app: LeasedApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine")


async def test_only_live_leases_reach_the_engine() -> None:
    """Nothing gets through without a lease, under a wrong one, or after it has ended."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        with leases.open("a"):
            assert (await http.post("/v1/x")).status_code == 403
            assert (await http.post("/v1/x", headers={"x-lease-id": "b"})).status_code == 403
            assert (await http.post("/v1/x", headers={"x-lease-id": "a"})).text == "hello"
        answer = await http.post("/v1/x", headers={"x-lease-id": "a"})
    assert answer.status_code == 403
    assert answer.headers["x-lease-refused"] == "1"
    assert len(engine.bodies) == 1


async def test_a_lease_is_ended_over_http() -> None:
    """Whoever holds a lease can end it, and the engine does not see that request."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        with leases.open("a") as lease:
            assert (await http.post("/lease", headers={"x-lease-id": "a"})).status_code == 200
            async with asyncio.timeout(1):
                await lease.wait_ended()
    assert engine.bodies == []


async def test_a_replica_tells_its_load_to_lease_holders() -> None:
    """The engine's own numbers, else the calls that are here; the engine is not asked."""
    engine, leases, stats = Engine(), LeaseTable(), EngineStats()
    lease = {"x-lease-id": "a"}
    async with client(LeasedApp(engine, leases, stats)) as http:
        assert (await http.post("/serve-app/load")).status_code == 403
        with leases.open("a"):
            assert await told(http, "/serve-app/load", lease) == "0 0 -"
            stats.record(Stats(3, 2, 0.125), None)
            assert await told(http, "/serve-app/load", lease) == "3 2 0.1250"
            assert await told(http, "/lease", lease) == "3 2 0.1250"
    assert engine.bodies == []


async def told(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> str:
    return (await http.post(path, headers=headers)).headers["x-engine-load"]


async def test_the_first_call_is_made_before_any_client() -> None:
    """The warm-up asks the model for one token, and survives a model that cannot chat."""
    engine = Engine()
    await warm_up(engine, "org/model")
    assert b'"model":"org/model"' in engine.bodies[0]
    await warm_up(Engine(fails=True), "org/model")


async def test_the_server_answers_on_a_free_port_until_it_is_closed() -> None:
    """A replica's port is open while it serves, and its death is noticed."""
    server = EngineHTTPServer(Engine(), "127.0.0.1")
    await server.wait_started()
    host, port = server.address
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://{host}:{port}/")).text == "hello"
    server.check()
    await server.close()
    with pytest.raises(RuntimeError):
        server.check()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
