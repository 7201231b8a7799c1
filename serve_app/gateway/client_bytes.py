"""The client's connection beneath ASGI, for bytes that need no change.

Nearly every token of a stream passes as it came from the replica: both sides speak HTTP/1.1 with
chunks. Such a chunk is written to the client's connection at once. By way of a task and of ASGI's
`send` it would cost several times the CPU (`serve-app bench gateway`; decision 0017).
"""

from __future__ import annotations

import asyncio

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serve_app.core.chunks import Take
from serve_app.gateway.stream_tap import StreamTap

EXTENSION = "serve_app.client_bytes"
"""The key among the `extensions` of an ASGI scope."""

UNSENT_BYTES_MAX = 32 * 1024
"""Half of what makes uvicorn wait for a slow client; chunks then pass by way of `send`."""


class ClientBytes:
    """What `EdgeProtocol` puts into the scope of each request; uvicorn's own state is read only."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: HttpToolsProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None: without HAProxy, Serve's proxy sends the scope to another process."""
        return type(None), ()

    def transport(self) -> asyncio.Transport | None:
        """Where chunks may be written between the head and the end of this answer.

        None if the answer is not chunked, or if another event loop than the client's is running.
        """
        cycle = self._cycle
        chunked = cycle.response_started and cycle.chunked_encoding and not cycle.response_complete
        here = self._protocol.loop is asyncio.get_running_loop()
        return cycle.transport if chunked and here else None


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
