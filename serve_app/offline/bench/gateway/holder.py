"""Opens streams, a few at a time, and holds them: `python -m ... PORT STREAMS PER_S`.

Prints `open` once every stream has had its first bytes, and holds the streams until its input ends.
A stream that breaks ends the program with an error.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import cast

import uvloop

from serve_app.offline.bench.gateway.raw_engine import HOST
from serve_app.offline.bench.phase import Phase, Requests

MODEL = "fast"
OPENED = "open"
_ENDLESS_TOKENS = 1_000_000
_OK = b"HTTP/1.1 200"


class StreamBroken(RuntimeError):
    """A stream was refused, or ended before its time."""


class Streams:
    """The open streams of this process."""

    def __init__(self, streams: int) -> None:
        self._missing = streams
        self.closing = False
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when every stream is open, or one has broken."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note_open(self) -> None:
        """One more stream has had its first bytes."""
        self._missing -= 1
        if not self._missing and not self.outcome.done():
            self.outcome.set_result(None)

    def note_broken(self, why: str) -> None:
        """A stream has ended."""
        for future in (self.outcome, self.broken):
            if not (self.closing or future.done()):
                future.set_exception(StreamBroken(why))


class HeldStream(asyncio.Protocol):
    """One connection with one stream; its bytes are dropped."""

    def __init__(self, streams: Streams, request: bytes) -> None:
        self._streams = streams
        self._request = request
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._begun:
            return
        self._begun = True
        if data.startswith(_OK):
            self._streams.note_open()
        else:
            self._streams.note_broken(repr(data[:300]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.note_broken("a stream's connection was closed")


async def hold(port: int, number: int, per_s: float) -> None:
    """Open so many streams, tell, and hold them."""
    loop = asyncio.get_running_loop()
    streams = Streams(number)
    requests = Requests(Phase(HOST, port, MODEL, number, True, _ENDLESS_TOKENS, 0.0, 0.0))
    began = loop.time()
    for count in range(number):
        await asyncio.sleep(max(0.0, began + count / per_s - loop.time()))
        _, request = requests.next()
        await loop.create_connection(partial(HeldStream, streams, request), HOST, port)
    await streams.outcome
    print(OPENED, flush=True)
    ended = loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.wait({ended, streams.broken}, return_when=asyncio.FIRST_COMPLETED)
    if streams.broken.done():
        streams.broken.result()
    streams.closing = True


if __name__ == "__main__":
    uvloop.run(hold(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
