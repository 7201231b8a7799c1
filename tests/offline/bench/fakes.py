"""Fakes for the bench's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from serve_app.offline.bench.phase import Phase

HOST = "127.0.0.1"
LAST_CHOICE = b'{"choices":[{"index":0,"finish_reason":"length"}]}'
DELTA = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
STREAM = DELTA + b"data: " + LAST_CHOICE + b"\n\ndata: [DONE]\n\n"


def make_phase(port: int, **changes: object) -> Phase:
    """A phase of two clients that is over in a fraction of a second."""
    values: dict[str, object] = {
        "host": HOST,
        "port": port,
        "model": "fast",
        "clients": 2,
        "stream": True,
        "output_tokens": 2,
        "warmup_s": 0.02,
        "window_s": 0.1,
        "drain_s": 1.0,
    }
    return Phase(**{**values, **changes})  # type: ignore[arg-type]


def render_whole(body: bytes, status: str = "200 OK", headers: bytes = b"") -> bytes:
    """An answer with a known length."""
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n".encode()
    return head + headers + b"\r\n" + body


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def render_chunk(piece: bytes) -> bytes:
    """One chunk; the empty one ends a body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def render_chunked(body: bytes, chunk_bytes: int = 7) -> bytes:
    """An answer in chunks whose borders have nothing to do with those of events."""
    pieces = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    return CHUNKED_HEAD + b"".join(render_chunk(piece) for piece in [*pieces, b""])


class FakeServer:
    """Answers the nth request of all connections with the nth script, the last one from then on.

    A script is what to write, piece by piece; `None` closes the connection, an event is waited for.
    """

    def __init__(self, *scripts: Sequence[bytes | asyncio.Event | None]) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.connections = 0
        self._scripts = scripts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
                if not await self._play(script, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _play(
        self, script: Sequence[bytes | asyncio.Event | None], writer: asyncio.StreamWriter
    ) -> bool:
        for step in script:
            if step is None:
                return False
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                writer.write(step)
                await writer.drain()
                # A piece of its own for the reader too, not only for the writer.
                await asyncio.sleep(0)
        return True


@asynccontextmanager
async def running(server: FakeServer) -> AsyncIterator[FakeServer]:
    """Lets a fake server listen on a free port."""
    listener = await asyncio.start_server(server.serve, HOST, 0)
    server.port = int(listener.sockets[0].getsockname()[1])
    async with listener:
        yield server
