"""One connection of the load generator: what counts as an answer, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.offline.bench.connection import RequestFailed, Timing, connect
from serve_app.offline.bench.phase import Requests
from tests.offline.bench.fakes import (
    CHUNKED_HEAD,
    DELTA,
    HOST,
    LAST_CHOICE,
    STREAM,
    FakeServer,
    make_phase,
    render_chunk,
    render_chunked,
    render_whole,
    running,
)

Script = Sequence[bytes | asyncio.Event | None]
REQUEST = Requests(make_phase(1)).next()[1]


async def ask_and_open(gate: asyncio.Event, server: FakeServer) -> Timing:
    """Asks, and lets the server pass its gate 50 ms later."""
    connection = await connect(HOST, server.port)
    asked = asyncio.create_task(connection.ask(REQUEST, stream=True))
    await asyncio.sleep(0.05)
    gate.set()
    sample = await asked
    connection.close()
    return sample


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 7, 11, 64, 1000])
async def test_chunk_borders_mean_nothing(chunk_bytes: int) -> None:
    """A stream is understood however its events are cut into chunks."""
    async with running(FakeServer([render_chunked(STREAM, chunk_bytes)])) as server:
        connection = await connect(HOST, server.port)
        sample = await connection.ask(REQUEST, stream=True)
        connection.close()
    assert 0 < sample.first_event_s <= sample.total_s


@pytest.mark.parametrize("at", range(1, 120, 7))
async def test_packet_borders_mean_nothing(at: int) -> None:
    """A stream is understood wherever the network cuts it, heads and chunk sizes included."""
    answer = render_chunked(STREAM)
    async with running(FakeServer([answer[:at], answer[at:]])) as server:
        connection = await connect(HOST, server.port)
        sample = await connection.ask(REQUEST, stream=True)
        connection.close()
    assert 0 < sample.first_event_s <= sample.total_s


@pytest.mark.parametrize(
    "before",
    [b"", b"dat", b"data: ", b": a comment\n\n", b"event: delta\n", DELTA[:-2]],
    ids=["nothing", "half a word", "no value", "comment", "event name", "no line end"],
)
async def test_the_first_event_is_a_whole_data_line(before: bytes) -> None:
    """Headers, comments and halves of an event are no first token."""
    rest = STREAM if before.endswith(b"\n") else STREAM[len(before) :]
    start = CHUNKED_HEAD + (render_chunk(before) if before else b"")
    gate = asyncio.Event()
    script: Script = [start, gate, render_chunk(rest) + render_chunk(b"")]
    async with running(FakeServer(script)) as server:
        sample = await ask_and_open(gate, server)
    assert sample.first_event_s >= 0.05


async def test_the_first_event_is_timed_when_it_comes() -> None:
    """The time to the first event does not wait for the second."""
    gate = asyncio.Event()
    start = CHUNKED_HEAD + render_chunk(DELTA)
    script: Script = [start, gate, render_chunk(STREAM[len(DELTA) :]) + render_chunk(b"")]
    async with running(FakeServer(script)) as server:
        sample = await ask_and_open(gate, server)
    assert sample.first_event_s < 0.05 <= sample.total_s


async def test_a_connection_is_kept_for_the_next_request() -> None:
    """Whole and streamed answers follow each other on one connection."""
    scripts = [[render_whole(LAST_CHOICE)], [render_chunked(STREAM)], [render_whole(LAST_CHOICE)]]
    async with running(FakeServer(*scripts)) as server:
        connection = await connect(HOST, server.port)
        for stream in (False, True, False):
            await connection.ask(REQUEST, stream=stream)
            assert connection.reusable
        connection.close()
    assert server.connections == 1
    assert server.requests == [REQUEST] * 3


async def test_a_server_may_end_a_connection_after_an_answer() -> None:
    """An answer that says `connection: close` counts, but its connection is not used again."""
    answer = render_whole(LAST_CHOICE, headers=b"connection: close\r\n")
    async with running(FakeServer([answer, None])) as server:
        connection = await connect(HOST, server.port)
        await connection.ask(REQUEST, stream=False)
        assert not connection.reusable


@pytest.mark.parametrize(
    ("script", "stream", "reason"),
    [
        ([render_whole(b"no", "503 Service Unavailable")], True, "status 503: b'no'"),
        ([render_whole(LAST_CHOICE[:-20])], False, "not every token"),
        ([render_chunked(DELTA + b"data: [DONE]\n\n")], True, "not every token"),
        ([render_chunked(STREAM.replace(b"data: [DONE]\n\n", b""))], True, "no end"),
        ([render_chunked(STREAM)[:-9], None], True, "closed before"),
        ([None], True, "closed before"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"], True, "not HTTP"),
    ],
    ids=["status", "short whole", "short stream", "no end", "broken off", "no answer", "garbage"],
)
async def test_half_an_answer_is_a_failure(script: Script, stream: bool, reason: str) -> None:
    """Whatever is less than the whole answer is a failure that says what is missing."""
    async with running(FakeServer(script)) as server:
        connection = await connect(HOST, server.port)
        with pytest.raises(RequestFailed, match=reason):
            await connection.ask(REQUEST, stream=stream)
        connection.close()


async def test_nobody_listens() -> None:
    """A refused connection is a failure like any other."""
    async with running(FakeServer([None])) as server:
        port = server.port
    with pytest.raises(RequestFailed, match="cannot connect"):
        await connect(HOST, port)
