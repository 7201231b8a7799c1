"""Hostile connections at HAProxy as Ray configures it, before a gateway without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.config.haproxy import (
    BODY_S,
    CONNECTIONS_PER_ADDRESS_MAX,
    HEAD_S,
)
from serve_app.config.runtime import RuntimeConfig
from serve_app.gateway.app import build_gateway
from serve_app.gateway.edge import Edge
from serve_app.gateway.protocol import EdgeProtocol
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from tests.config.test_haproxy import Proxy
from tests.config.test_haproxy import running as proxying
from tests.fakes import FakeAnswer, FakeReadiness, FakeRecorder, FakeTier
from tests.gateway.conftest import TIERS
from tests.gateway.test_protocol import running as serving
from tests.hostile.attacks import ATTACKS, Target, half_close, render_call

SOME_IDLE = 2_000
FILES = 20_000
"""More than HAProxy needs for the 4,096 connections that Ray's configuration allows by default."""


class FreshTier(FakeTier):
    """Answers each call anew."""

    @property
    def answer(self) -> FakeAnswer:
        return FakeAnswer([orjson.dumps({"choices": [], "usage": None})])

    @answer.setter
    def answer(self, answer: object) -> None:
        """Every answer is the same."""


def with_health(app: ASGIApp) -> ASGIApp:
    """The app below Serve's own layer, which answers HAProxy's checks."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/-/healthz":
            await Response("success")(scope, receive, send)
        else:
            await app(scope, receive, send)

    return serve


@asynccontextmanager
async def door(directory: Path, files: int) -> AsyncIterator[tuple[Proxy, FakeRecorder]]:
    """HAProxy with its default limits before a gateway."""
    recorder = FakeRecorder()
    tiers = {"fast": FreshTier(), "strong": FreshTier()}
    pipeline = Pipeline(TIERS, tiers, HeuristicScorer(), RuntimeConfig())
    app = Edge(with_health(build_gateway(TIERS, pipeline, recorder, FakeReadiness())))
    defaults = {CONNECTIONS_PER_ADDRESS_MAX: "2000", HEAD_S: "10", BODY_S: "30"}
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, EdgeProtocol))
        proxy = await stack.enter_async_context(
            proxying(directory, backend_port=port, more=defaults, files=files)
        )
        yield proxy, recorder
        assert pipeline.in_flight == 0


@pytest.mark.slow
async def test_idle_connections_shut_nobody_out(tmp_path: Path) -> None:
    """A call is answered while they are there; `make hostile` makes ten thousand of them."""
    async with door(tmp_path, FILES) as (proxy, recorder):
        target, idle = Target("127.0.0.1", proxy.port), []
        try:
            for _ in range(SOME_IDLE):
                idle.append(await target.connect())  # noqa: PERF401  # those before a failure, too
            answer = await ask(Target("127.0.0.1", proxy.port, sources=("127.0.0.9",)))
        finally:
            for connection in idle:
                connection.close()
        assert answer == "200"
        assert len(recorder.records) == 1


async def ask(target: Target) -> str:
    """The status of one call."""
    with await target.connect() as connection:
        await target.send(connection, render_call(tokens=1, stream=False))
        async with asyncio.timeout(5):
            return await target.status(connection)


async def test_a_client_that_closes_its_sending_side_has_left(tmp_path: Path) -> None:
    """HAProxy cannot tell it from a client that is gone, and closes the rest of the connection."""
    async with door(tmp_path, 4096) as (proxy, recorder):
        target = Target("127.0.0.1", proxy.port)
        async with asyncio.timeout(10):
            await half_close(target)
            assert await ask(target) == "200"
        assert target.done["400"] == 1
        assert len(recorder.records) <= 2


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"idle"}))
async def test_others_are_answered_during_each_attack(tmp_path: Path, name: str) -> None:
    """However many attackers there are; each call of theirs is recorded once, if it is one."""
    async with door(tmp_path, 8192) as (proxy, recorder):
        target = Target("127.0.0.1", proxy.port)
        attack = asyncio.ensure_future(ATTACKS[name](target))
        try:
            while target.done["connections"] < 10:
                await asyncio.sleep(0.01)
            assert await ask(Target("127.0.0.1", proxy.port)) == "200"
        finally:
            attack.cancel()
        ids = [id(record) for record in recorder.records]
        assert len(ids) == len(set(ids))
