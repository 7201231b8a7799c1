"""uvicorn's HTTP protocol, with this service's restrictions."""

from __future__ import annotations

from typing import Any

import orjson
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve_app.gateway.client_bytes import EXTENSION, ClientBytes

NOT_HTTP = orjson.dumps(
    {
        "error": {
            "message": "The request is not valid HTTP.",
            "type": "invalid_request_error",
            "param": None,
            "code": "bad_request",
        }
    }
)

HEAD_BYTES_MAX = 256 * 1024
"""The limit for one request's head, apart from its first read; HAProxy in front takes 16 KiB."""


class NoUpgrade(Exception):
    """A request asks for another protocol."""


class EdgeProtocol(HttpToolsProtocol):
    """Ignores trailers, rejects endless heads and upgrades, answers invalid HTTP with JSON, and
    keeps the peer's address.

    uvicorn appends trailers to the request's headers. A trailer could therefore replace a header
    that a proxy in front had set or removed. uvicorn reads a body that comes with `Upgrade` as the
    next request, and the answer to that request would reach another client of the proxy's
    connection. By default uvicorn believes what a peer at 127.0.0.1 says of the client in
    `x-forwarded-for`, and puts it in the place of the peer's address. The config of this service
    names the proxies that may speak for clients, so the address must stay the peer's.
    """

    _in_headers = False
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        in_headers = self._in_headers
        super().data_received(data)
        if in_headers and self._in_headers:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins, with its headers."""
        self._in_headers = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are complete: each header that follows is a trailer.

        Raises:
            NoUpgrade: the request is rejected, because the parser does not report its body.
        """
        self._in_headers = False
        if self.parser.should_upgrade():
            raise NoUpgrade
        super().on_headers_complete()
        # The task of the request has been made, and does not run before this returns.
        self.scope["extensions"] = {EXTENSION: {"client": ClientBytes(self.loop, self.cycle)}}

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed; none of its headers is known."""
        headers = (
            b"content-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(NOT_HTTP)
        )
        self.transport.write(STATUS_LINE[400] + headers + NOT_HTTP)
        self.transport.close()


def use_own_protocol() -> None:
    """Make each uvicorn server of this process that chooses its own protocol use this class.

    Ray Serve 2.60 builds its own uvicorn.Config and offers no way to name a protocol.
    """
    auto.AutoHTTPProtocol = EdgeProtocol
