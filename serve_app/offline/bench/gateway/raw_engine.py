"""An engine that costs almost nothing: recorded chunks, written to the socket one by one.

`python -m serve_app.offline.bench.gateway.raw_engine STEP_S` prints its port. Every chat request is
answered, under a lease or without. `GET /counts` tells how many calls and chunks there were.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import cast

import httptools
import orjson
import uvloop

from serve_app.core.call import Endpoint
from serve_app.offline.bench.gateway.pace import Steps
from serve_app.offline.bench.gateway.recorded import Asked, read_asked, render_whole

HOST = "127.0.0.1"
COUNTS_PATH = "/counts"
_CALLS = frozenset(endpoint.value.encode() for endpoint in Endpoint)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
_HEAD += b"x-engine-load: 1 0 0.01\r\ntransfer-encoding: chunked\r\n\r\n"
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Counts:
    """What the engine has answered."""

    calls: int = 0
    chunks: int = 0


class RawEngine(asyncio.Protocol):
    """One connection."""

    def __init__(self, steps: Steps, counts: Counts) -> None:
        self._steps = steps
        self._counts = counts
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._asked: Asked | None = None
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == COUNTS_PATH.encode():
            self._answer(orjson.dumps(self._counts))
        elif self._url not in _CALLS:
            self._answer(b"")
        else:
            self._call(read_asked(self._body))

    def _call(self, asked: Asked) -> None:
        self._counts.calls += 1
        if asked.stream:
            self._asked, self._sent = asked, 0
            self._write(_HEAD)
            self._steps.add(self._step)
        else:
            self._answer(render_whole(asked))

    def _step(self) -> bool:
        """Write the next chunk; whether there are more."""
        if self._asked is None or self._transport is None:
            return False
        event = self._asked.event(self._sent)
        self._sent += 1
        self._counts.chunks += 1
        more = self._sent < self._asked.events
        self._write(b"%x\r\n%b\r\n" % (len(event), event) + (b"" if more else _END))
        return more

    def _answer(self, body: bytes) -> None:
        self._write(_WHOLE % (len(body), body))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def serve(step_s: float) -> None:
    """Serve on a free port until this process is ended."""
    steps, counts = Steps(step_s), Counts()
    server = await asyncio.get_running_loop().create_server(
        lambda: RawEngine(steps, counts), HOST, 0, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1])))
