"""The load generator: closed loops, windows, errors."""

from __future__ import annotations

import asyncio
import json

import pytest

from serve_app.offline.bench.loadgen import BEGUN, ENDED, generate
from serve_app.offline.bench.phase import Requests
from serve_app.offline.bench.responder import Responder
from tests.offline.bench.fakes import (
    HOST,
    LAST_CHOICE,
    STREAM,
    FakeServer,
    make_phase,
    render_chunked,
    render_whole,
    running,
)


def ignore(word: str) -> None:
    """Nobody listens to the edges of the window."""


@pytest.mark.parametrize("stream", [True, False])
async def test_the_responder_can_be_measured(stream: bool) -> None:
    """The trivial server gives the generator nothing to complain about, streamed or whole."""
    listener = await asyncio.get_running_loop().create_server(Responder, HOST, 0)
    async with listener:
        phase = make_phase(listener.sockets[0].getsockname()[1], stream=stream, output_tokens=3)
        outcome = await generate(phase, ignore)
    assert outcome.errors == {}
    assert len(outcome.total_s) == len(outcome.first_event_s) > 10
    assert outcome.window_s >= phase.window_s


async def test_the_window_is_announced() -> None:
    """The edges of the window are announced once each, in order."""
    said: list[str] = []
    async with running(FakeServer([render_whole(LAST_CHOICE)])) as server:
        await generate(make_phase(server.port, stream=False), said.append)
    assert said == [BEGUN, ENDED]


async def test_every_client_waits_for_its_answer() -> None:
    """In a closed loop there are never more requests under way than clients."""
    gate = asyncio.Event()
    async with running(FakeServer([gate, render_whole(LAST_CHOICE)])) as server:
        phase = make_phase(server.port, clients=3, stream=False)
        asked = asyncio.create_task(generate(phase, ignore))
        await asyncio.sleep(0.05)
        assert len(server.requests) == 3
        gate.set()
        await asked
    assert server.connections == 3


async def test_failures_are_counted_by_what_they_say() -> None:
    """Failed requests are counted, do not count as answers, and do not stop the client."""
    bad = [[render_whole(b"busy", "503 Service Unavailable")]] * 2
    async with running(FakeServer(*bad, [None], [render_chunked(STREAM)])) as server:
        outcome = await generate(make_phase(server.port, clients=1, window_s=0.3), ignore)
    assert sorted(outcome.errors.values()) == [1, 2]
    assert any("503" in text for text in outcome.errors)
    assert len(outcome.total_s) > 0


async def test_a_server_that_never_answers_is_an_error() -> None:
    """Clients that still wait when the drain time is over are errors, one each."""
    async with running(FakeServer([asyncio.Event()])) as server:
        outcome = await generate(make_phase(server.port, drain_s=0.05), ignore)
    assert outcome.total_s == []
    assert list(outcome.errors.values()) == [2]


async def test_a_server_that_is_not_there_is_an_error() -> None:
    """A refused connection is counted again and again, not raised."""
    async with running(FakeServer([None])) as server:
        port = server.port
    outcome = await generate(make_phase(port), ignore)
    assert sum(outcome.errors.values()) >= 2


def test_requests_differ_only_in_their_number() -> None:
    """Every request is new to a cache, and all have the same length."""
    requests = Requests(make_phase(8000))
    (_, first), (request_id, second) = requests.next(), requests.next()
    assert first != second
    assert len(first) == len(second)
    head, body = first.split(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert request_id == "bench-00000002"
    assert b"x-request-id: bench-00000002\r\n\r\n" in second
    document = json.loads(body)
    assert document["messages"][0]["content"].startswith("Question 00000001: ")
    assert document["ignore_eos"] is True
    assert document["max_tokens"] == 2
