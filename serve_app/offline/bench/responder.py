"""A server that does nothing but answer: what the load generator is measured against.

`python -m serve_app.offline.bench.responder PORT` speaks just enough of the chat API for the
generator, so its request rate is the ceiling of what the bench could ever show.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import httptools
import uvloop

_MAX_TOKENS = re.compile(rb'"max_tokens":(\d+)')
_STREAM = b'"stream":true'
_DELTA = b'{"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}'
_LAST = b'{"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":"length"}]}'
_WHOLE = b'{"choices":[{"index":0,"message":{"content":" word"},"finish_reason":"length"}]}'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n"


class Responder(asyncio.Protocol):
    """Answers each chat request with as many events as it asks for tokens."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        asked = _MAX_TOKENS.search(self._body)
        tokens = int(asked.group(1)) if asked else 1
        if _STREAM in self._body:
            self._write(_HEAD % (b"text/event-stream", b"transfer-encoding: chunked"))
            self._write_events([_DELTA] * (tokens - 1) + [_LAST, b"[DONE]"])
        else:
            self._write(_HEAD % (b"application/json", b"content-length: %d" % len(_WHOLE)) + _WHOLE)

    def _write_events(self, events: list[bytes]) -> None:
        """One event a turn of the loop, so that the generator reads them one by one."""
        event = b"data: %b\n\n" % events[0]
        self._write(b"%x\r\n%b\r\n" % (len(event), event))
        if len(events) > 1:
            asyncio.get_running_loop().call_soon(self._write_events, events[1:])
        else:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def serve(port: int) -> None:
    """Listens on the loopback address until cancelled."""
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
