"""Streams past the Router's tasks: real sockets, real uvicorn, a real door, a scripted engine."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from weakref import ref

import orjson
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.config.runtime import LeaseConfig, RuntimeConfig
from serve_app.gateway.app import build_gateway
from serve_app.gateway.client_bytes import UNSENT_BYTES_MAX, ClientBytes
from serve_app.gateway.edge import Edge
from serve_app.gateway.protocol import EdgeProtocol
from serve_app.leases.client import TierClient
from serve_app.leases.http1 import BUFFER_BYTES_MAX
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from tests.fakes import FakeReadiness, FakeRecorder
from tests.gateway.conftest import TIERS
from tests.gateway.test_protocol import running as serving
from tests.leases.replica import Replica, Replicas

BODY = {"model": "fast", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7}
SOCKETS_BYTES = 16 << 20
"""More than the kernel keeps for the connections between an engine and a client."""


def event(text: str) -> bytes:
    document = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + orjson.dumps(document) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


DONE = b"data: [DONE]\n\n"
END = b'data: {"choices":[],"usage":' + orjson.dumps(USAGE) + b"}\n\n" + DONE


class Writer(Replica):
    """A replica whose engine writes what a test gives it, and notes how far it has come."""

    def __init__(self) -> None:
        super().__init__()
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.written = 0
        self.left = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(self._leave(receive))
        await asyncio.wait([writing, leaving], return_when=asyncio.FIRST_COMPLETED)
        for task in (writing, leaving):
            task.cancel()
        self.left.set()

    async def _write(self, send: Send) -> None:
        while data := await self.events.get():
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self.written += len(data)
        await send({"type": "http.response.body", "body": b""})

    @staticmethod
    async def _leave(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def only(message: Message) -> Receive:
    """A `receive` that has one message."""

    async def receive() -> Message:
        return message

    return receive


class Service:
    """A gateway before one engine; `sent` counts the body messages that went through ASGI."""

    def __init__(self, engine: Writer) -> None:
        self.engine = engine
        self.recorder = FakeRecorder()
        self.sent = 0
        self.port = 0

    def as_ray_calls(self, app: ASGIApp) -> ASGIApp:
        """The app in a task that is cancelled when the client leaves."""

        async def count(scope: Scope, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                self.sent += message["type"] == "http.response.body"
                await send(message)

            body = await receive()
            call = asyncio.create_task(app(scope, only(body), note))
            gone = asyncio.create_task(receive())
            await asyncio.wait([call, gone], return_when=asyncio.FIRST_COMPLETED)
            for task in (call, gone):
                task.cancel()

        return count

    async def ask(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which the call has been sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16)
        body = orjson.dumps(BODY)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
        )
        writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        return reader, writer


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    replicas = Replicas()
    engine = Writer()
    await engine.start()
    replicas.replicas.append(engine)
    tier = TierClient("fast", replicas, LeaseConfig())
    service = Service(engine)
    tiers = {"fast": tier, "strong": tier}
    pipeline = Pipeline(TIERS, tiers, HeuristicScorer(), RuntimeConfig())
    gateway = build_gateway(TIERS, pipeline, service.recorder, FakeReadiness())
    async with AsyncExitStack() as stack:
        app = Edge(service.as_ray_calls(gateway))
        service.port = await stack.enter_async_context(serving(app, EdgeProtocol))
        yield service
    tier.close()
    await engine.stop()


async def test_events_pass_without_a_task(service: Service) -> None:
    """The head, the first event and the end go through ASGI; the client sees one whole stream."""
    texts = [f"word {number}." for number in range(100)]
    reader, writer = await service.ask()
    got = b""
    async with asyncio.timeout(30):
        for text in texts:
            service.engine.events.put_nowait(event(text))
            got += await reader.readuntil(text.encode())
        service.engine.events.put_nowait(END)
        service.engine.events.put_nowait(b"")
        got += await reader.readuntil(b"0\r\n\r\n")
    writer.close()
    _, _, chunks = got.partition(b"\r\n\r\n")
    assert chunks == b"".join(chunk(event(text)) for text in texts) + chunk(DONE) + chunk(b"")
    assert service.sent <= 5
    [record] = service.recorder.records
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (5, 7)


async def test_a_slow_client_slows_the_engine(service: Service) -> None:
    """The Router holds no more than its buffers; later the client gets everything, in order."""
    text = "x" * 10_000
    count = 2 * SOCKETS_BYTES // len(text)
    for _ in range(count):
        service.engine.events.put_nowait(event(text))
    service.engine.events.put_nowait(END)
    service.engine.events.put_nowait(b"")
    reader, writer = await service.ask()
    before = -1
    while service.engine.written != before:
        before = service.engine.written
        await asyncio.sleep(0.1)
    assert before < SOCKETS_BYTES + BUFFER_BYTES_MAX + UNSENT_BYTES_MAX
    got = 0
    async with asyncio.timeout(60):
        await reader.readuntil(b"\r\n\r\n")
        while (size := int(await reader.readline(), 16)) != 0:
            body = await reader.readexactly(size + 2)
            got += body.count(text.encode())
    assert got == count
    writer.close()


async def test_a_client_that_leaves_stops_the_engine(service: Service) -> None:
    """Although no task of the Router's has seen the last events."""
    reader, writer = await service.ask()
    for number in range(5):
        service.engine.events.put_nowait(event(f"word {number}"))
    async with asyncio.timeout(30):
        await reader.readuntil(b"word 4")
        writer.transport.abort()
        await service.engine.left.wait()


async def test_an_error_in_the_stream_is_this_services(service: Service) -> None:
    """An engine's words are not passed on, whatever passed before."""
    reader, writer = await service.ask()
    for number in range(5):
        service.engine.events.put_nowait(event(f"word {number}"))
    async with asyncio.timeout(30):
        got = await reader.readuntil(b"word 4")
        error = {"message": "/usr/lib/secret.py failed", "type": "InternalServerError", "code": 500}
        service.engine.events.put_nowait(b"data: " + orjson.dumps({"error": error}) + b"\n\n")
        got += await reader.readuntil(b"0\r\n\r\n")
    assert b'"error"' in got
    assert b"secret" not in got
    writer.close()


def test_the_scope_can_be_sent_to_another_process() -> None:
    """Without HAProxy, Serve's proxy pickles it; the connection stays behind."""
    client = object.__new__(ClientBytes)
    assert pickle.loads(pickle.dumps({"client": client})) == {"client": None}


async def test_an_ended_request_leaves_no_garbage() -> None:
    """It is freed with its last reference, and not by a collection that stops every stream."""
    seen: list[ref[object]] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(ref(receive.__self__))  # type: ignore[attr-defined]  # uvicorn's method
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(look, EdgeProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        gc.disable()
        try:
            for _ in range(3):
                writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
                await reader.readuntil(b"0\r\n\r\n")
            assert [cycle() is None for cycle in seen] == [True, True, False]
        finally:
            gc.enable()
        writer.close()
