"""The same recorded answers from an ASGI app behind a replica's real door.

`python -m serve_app.offline.bench.gateway.door_engine STEP_S` prints its ports as one line of JSON.
On port `control` a Router asks for places, one line each, as it asks a replica through Ray. Port
`bare` is the same app behind the same server without the door.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import uvloop

from serve_app.offline.bench.gateway.pace import Steps
from serve_app.offline.bench.gateway.raw_engine import COUNTS_PATH, HOST, Counts
from serve_app.offline.bench.gateway.recorded import Asked, read_asked, render_whole
from serve_app.replica.asgi import Receive, Scope, Send
from serve_app.replica.draft_gate import DraftApp
from serve_app.replica.engine_http import EngineHTTPServer, LeasedApp
from serve_app.replica.lease_table import LeaseTable

GRANTED = b"granted\n"


class RecordedApp:
    """An engine's app that waits for each step and sends the next recorded event."""

    def __init__(self, steps: Steps, counts: Counts) -> None:
        self._steps = steps
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == COUNTS_PATH:
            await _send_whole(send, orjson.dumps(self._counts))
            return
        asked = read_asked(await _read(receive))
        self._counts.calls += 1
        if asked.stream:
            await self._stream(asked, send)
        else:
            await _send_whole(send, render_whole(asked))

    async def _stream(self, asked: Asked, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(asked.events):
            await self._next_step()
            self._counts.chunks += 1
            more = number + 1 < asked.events
            body = asked.event(number)
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def _next_step(self) -> asyncio.Future[None]:
        reached = asyncio.get_running_loop().create_future()

        def reach() -> bool:
            if not reached.done():
                reached.set_result(None)
            return False

        self._steps.add(reach)
        return reached


class Control:
    """Grants places to the Router; a place lives as long as its lease."""

    def __init__(self, leases: LeaseTable) -> None:
        self._leases = leases
        self._held: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the Router: `LEASE_ID SECRET` lines."""
        while line := await reader.readline():
            lease_id, secret = line.split()
            opened = asyncio.Event()
            held = asyncio.create_task(self._hold(lease_id.decode(), secret, opened))
            self._held.add(held)
            held.add_done_callback(self._held.discard)
            await opened.wait()
            writer.write(GRANTED)
        writer.close()

    async def _hold(self, lease_id: str, secret: bytes, opened: asyncio.Event) -> None:
        with self._leases.open(lease_id, bytes.fromhex(secret.decode())) as lease:
            opened.set()
            await lease.wait_ended()


async def serve(step_s: float) -> None:
    """Serve on free ports until this process is ended."""
    app, leases = RecordedApp(Steps(step_s), Counts()), LeaseTable()
    door = EngineHTTPServer(LeasedApp(DraftApp(app), leases), HOST)
    bare = EngineHTTPServer(app, HOST)
    for server in (door, bare):
        await server.wait_started()
    control = await asyncio.start_server(Control(leases).serve, HOST, 0)
    ports = {
        "door": door.address[1],
        "bare": bare.address[1],
        "control": control.sockets[0].getsockname()[1],
    }
    print(orjson.dumps(ports).decode(), flush=True)
    await asyncio.Event().wait()


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _send_whole(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1])))
