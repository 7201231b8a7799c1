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


class EdgeProtocol(HttpToolsProtocol):
    """Reads no trailers, and says in JSON that a request is not HTTP.

    uvicorn appends trailers to the headers of the request. A trailer could so take the place of a
    header that a proxy in front had set or removed.
    """

    def on_message_begin(self) -> None:
        """A request begins, with its headers."""
        self._in_headers = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What comes from here on under the name of a header is a trailer."""
        self._in_headers = False
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
