"""The client's connection beneath ASGI, for bytes that need no change.

Nearly every token of a stream passes as it came from the replica: both sides speak HTTP/1.1 with
chunks. Such a chunk is written to the client's connection at once, which spares a task switch and
ASGI's `send` (`serve-app bench gateway`; decision 0017).
"""

from __future__ import annotations

import asyncio
from weakref import ref

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serve_app.core.chunks import Take
from serve_app.gateway.stream_tap import StreamTap

EXTENSION = "serve_app.client_bytes"
"""The key among the `extensions` of an ASGI scope."""

UNSENT_BYTES_MAX = 32 * 1024
"""Half of what makes uvicorn wait for a slow client; chunks then pass by way of `send`."""


class ClientBytes:
    """What `EdgeProtocol` puts into the scope of each request; uvicorn's own state is read only."""

    __slots__ = ("_cycle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, cycle: RequestResponseCycle) -> None:
        self._loop = loop
        # The cycle owns the scope, and so this. A strong reference would leave each ended request,
        # its headers included, to the garbage collector.
        self._cycle = ref(cycle)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None: without HAProxy, Serve's proxy sends the scope to another process."""
        return type(None), ()

    def transport(self) -> asyncio.Transport | None:
        """Where chunks may be written between the head and the end of this answer.

        None if the answer is not chunked, or if another event loop than the client's is running.
        """
        cycle = self._cycle()
        if cycle is None or self._loop is not asyncio.get_running_loop():
            return None
        chunked = cycle.response_started and cycle.chunked_encoding and not cycle.response_complete
        return cycle.transport if chunked else None


def open_passage(scope: Scope, tap: StreamTap) -> Take | None:
    """The way past the tap to the client, for events that the tap would not change.

    None if the server beneath is not this service's own.
    """
    client: ClientBytes | None = scope.get("extensions", {}).get(EXTENSION, {}).get("client")
    transport = None if client is None else client.transport()
    if transport is None:
        return None

    def take(chunks: bytes) -> bool:
        # A closed connection, too, is left to `send`, which knows it.
        if transport.is_closing() or transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return False
        if not tap.lets_pass(chunks):
            return False
        transport.write(chunks)
        return True

    return take
