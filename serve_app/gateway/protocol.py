"""uvicorn's HTTP protocol, as this service wants it."""

from __future__ import annotations

import orjson
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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
"""Of one request; HAProxy in front takes 16 KiB. What comes in one read is taken in any case."""


class NoUpgrade(Exception):
    """A request asks for another protocol."""


class EdgeProtocol(HttpToolsProtocol):
    """Reads no trailers and no endless head, never upgrades, and says in JSON what is not HTTP.

    uvicorn appends trailers to the headers of the request. A trailer could so take the place of a
    header that a proxy in front had set or removed. A body that comes with `Upgrade` uvicorn reads
    as the next request; its answer would meet another client of the proxy's connection.
    """

    _in_headers = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's."""
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
        """What comes from here on under the name of a header is a trailer.

        Raises:
            NoUpgrade: the request is refused, because the parser does not tell its body.
        """
        self._in_headers = False
        if self.parser.should_upgrade():
            raise NoUpgrade
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """The answer to what cannot be parsed; nothing of it is known."""
        headers = (
            b"content-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(NOT_HTTP)
        )
        self.transport.write(STATUS_LINE[400] + headers + NOT_HTTP)
        self.transport.close()


def use_own_protocol() -> None:
    """Let uvicorn servers of this process that choose their protocol by themselves take this one.

    Ray Serve 2.60 writes its uvicorn.Config itself and offers no way to name a protocol.
    """
    auto.AutoHTTPProtocol = EdgeProtocol
