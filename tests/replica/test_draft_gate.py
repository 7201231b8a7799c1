"""The gate before an engine's app that holds drafts back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from serve_app.leases.draft_report import DraftReport, parse_report
from serve_app.replica.asgi import ASGIApp, Receive, Scope, Send
from serve_app.replica.draft_gate import LOGPROB_MIN, WATCH, DraftApp, Watch
from serve_app.replica.engine_http import EngineHTTPServer

Writer = Callable[[Watch, Send], Awaitable[None]]
DRAFT = {"x-draft-tokens": "2"}
STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


def piece(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """An app behind the gate on a real socket, as a replica serves it."""
    server = EngineHTTPServer(DraftApp(app), "127.0.0.1")
    await server.wait_started()
    host, port = server.address
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=5) as http:
        yield http
    await server.close()


def engine(write: Writer) -> ASGIApp:
    """An app whose answer is written with the exchange's watch at hand."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watch = WATCH.get()
        assert watch is not None
        await write(watch, send)

    return app


async def test_what_is_no_draft_is_not_touched() -> None:
    """Without the header there is no watch and no gate."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert WATCH.get() is None
        await send(STREAM)
        await send(piece(b"data: 1\n\n", more=False))

    async with serving(app) as http:
        response = await http.post("/")
        assert response.text == "data: 1\n\n"
        assert "x-draft" not in response.headers


async def test_a_stream_is_held_until_its_checkpoint() -> None:
    """The head comes with the report, the held bytes follow, and then every byte as it comes."""
    go_on = asyncio.Event()

    async def write(watch: Watch, send: Send) -> None:
        watch.expect(1)
        watch.note_prompt(7)
        await send(STREAM)
        for number in range(2):
            watch.note(0, [-0.5 * number], ended=False)
            await watch.check()
            await send(piece(b"%d" % number))
        assert watch.done
        await go_on.wait()
        await send(piece(b"end", more=False))

    async with serving(engine(write)) as http, http.stream("POST", "/", headers=DRAFT) as response:
        assert response.headers["content-type"] == "text/event-stream"
        report = parse_report(response.headers["x-draft"].encode())
        assert report == DraftReport(7, 2, ((0.0, -0.5),))
        pieces = response.aiter_bytes()
        held = b""
        while len(held) < 2:
            held += await anext(pieces)
        assert held == b"01"
        go_on.set()
        assert b"".join([part async for part in pieces]) == b"end"


async def test_an_answer_in_one_piece_gets_its_head_early() -> None:
    """The report does not wait for the rest of the answer, whose own head is then left out."""
    go_on = asyncio.Event()

    async def write(watch: Watch, send: Send) -> None:
        watch.expect(1)
        watch.note(0, [-0.1, -0.2, -0.3], ended=False)
        await watch.check()
        await go_on.wait()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(piece(b"{}", more=False))

    async with serving(engine(write)) as http, http.stream("POST", "/", headers=DRAFT) as response:
        report = parse_report(response.headers["x-draft"].encode())
        assert report.logprobs == ((-0.1, -0.2),)
        assert report.completion_tokens == 3
        go_on.set()
        assert await response.aread() == b"{}"
        assert response.headers["content-type"] == "application/json"


async def test_a_failure_after_an_early_head_breaks_the_connection() -> None:
    """A status that can no longer be sent is not replaced by a wrong one."""

    async def write(watch: Watch, send: Send) -> None:
        watch.expect(1)
        watch.note(0, [-0.1], ended=True)
        await watch.check()
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send(piece(b"/usr/lib/secret", more=False))

    async with serving(engine(write)) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post("/", headers=DRAFT)


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_an_answer_that_ends_before_its_checkpoint_has_no_report(status: int) -> None:
    """A refusal or an error in the stream passes as it is, once it is complete."""

    async def write(watch: Watch, send: Send) -> None:
        watch.expect(1)
        watch.note(0, [-0.1], ended=False)
        await watch.check()
        await send({**STREAM, "status": status})
        await send(piece(b"data: "))
        await send(piece(b"error\n\n", more=False))

    async with serving(engine(write)) as http:
        response = await http.post("/", headers=DRAFT)
        assert (response.status_code, response.text) == (status, "data: error\n\n")
        assert "x-draft" not in response.headers


async def test_every_sequence_must_come_to_the_checkpoint() -> None:
    """With several choices the last one decides; a short one counts when it has ended."""
    reports: list[DraftReport] = []

    async def keep(report: DraftReport) -> None:
        reports.append(report)

    watch = Watch(2, keep)
    assert (watch.expect(2), watch.expect(1)) == (0, 2)
    watch.note(1, [float("-inf")], ended=True)
    watch.note(0, [-0.1], ended=False)
    watch.note(2, [-0.3, -0.4, -0.5], ended=False)
    await watch.check()
    assert not reports
    watch.note(0, [-0.2], ended=False)
    await watch.check()
    await watch.check()
    assert reports == [DraftReport(0, 6, ((-0.1, -0.2), (LOGPROB_MIN,), (-0.3, -0.4)))]


async def test_pieces_written_by_two_tasks_stay_in_order() -> None:
    """The checkpoint may be seen by another task than the one that writes."""

    async def write(watch: Watch, send: Send) -> None:
        watch.expect(1)
        await send(STREAM)

        async def look() -> None:
            watch.note(0, [-0.1, -0.2], ended=False)
            await watch.check()

        async def answer() -> None:
            for number in range(100):
                await send(piece(b"%d," % number, more=number < 99))

        await asyncio.gather(answer(), look())

    async with serving(engine(write)) as http:
        response = await http.post("/", headers=DRAFT)
        assert response.text == "".join(f"{number}," for number in range(100))


async def test_a_dropped_draft_is_seen_by_the_engine() -> None:
    """A Router that drops the connection is a client that has left, held back or not."""
    left = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STREAM)
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with serving(app) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/", headers=DRAFT, timeout=0.1)
        async with asyncio.timeout(2):
            await left.wait()
