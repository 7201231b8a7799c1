"""The first layer of every HTTP server of Serve: it runs before Serve reads a request.

Serve obeys some headers that are meant for its tests and its own hops. Clients must not set these
headers, so this layer removes them. `DROPPED` and `DROPPED_PREFIX` cover all of these headers in
Ray 2.60. Ray also reads `x-request-id`, which gets a plain value here, and `x-session-id`,
`traceparent` and `tracestate`, which Ray decodes as UTF-8.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterable, Mapping

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.config.environment import HAPROXY_ON
from serve_app.config.reader import process_environment
from serve_app.config.tls import CERTIFICATE, read_tls
from serve_app.core.call import Endpoint
from serve_app.core.errors import GatewayError, InternalError, InvalidField, RouteNotFound
from serve_app.core.headers import REQUEST_ID_HEADER, SESSION_HEADER, Headers
from serve_app.gateway.protocol import use_own_protocol
from serve_app.gateway.render import error_headers, render_error
from serve_app.gateway.request_headers import CONTROLS, REQUEST_ID

logger = logging.getLogger("ray.serve")

DROPPED = frozenset(
    (
        b"x-request-disconnect-disabled",  # A disconnect would cancel nothing.
        b"x-request-timeout-seconds",  # Streams would be cut without an error event.
        b"serve-multiplexed-model-id",  # Serve would choose replicas by their loaded models.
    )
)
"""Dropped in any spelling with `-` and `_`, because Ray compares some of these names so."""
DROPPED_PREFIX = b"x-serve-router-"
"""Headers for Ray's own request router, which this service does not use. HAProxy adds them."""
TRACE = (b"traceparent", b"tracestate")
ROUTES = "/-/routes"
"""Serve's list of applications."""


def build_edge() -> list[Middleware]:
    """The middleware of Serve's servers, named in `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`.

    Serve calls this function in each process that takes HTTP requests, before the server starts.
    """
    check_tls(process_environment())
    use_own_protocol()
    return [Middleware(Edge)]


def check_tls(environment: Mapping[str, str]) -> None:
    """Start no server without TLS where the operator asks for TLS.

    Raises:
        ValueError: TLS is configured, but HAProxy, which serves it, is off.
    """
    if read_tls(environment) is not None and environment.get(HAPROXY_ON) != "1":
        raise ValueError(f"{CERTIFICATE} is set, but not {HAPROXY_ON}=1: only HAProxy serves TLS")


class Edge:
    """Removes headers that Serve would obey, and rejects requests that Serve cannot handle."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] == "http":
            request_id = read_request_id(scope["headers"])
            try:
                scope["headers"] = [*clean(scope["headers"]), (REQUEST_ID_HEADER, request_id)]
                check_path(scope)
            except GatewayError as error:
                await refuse(error, scope, request_id, send)
                return
            await self._pass_on(scope, receive, send, request_id)
            return
        await self._app(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:  # a fault between this layer and the handlers, so in Serve
            logger.exception("request %s failed in Serve", request_id.decode())
            # If the answer has begun, the server takes no second head and closes the connection.
            with contextlib.suppress(RuntimeError):
                await refuse(InternalError(), scope, request_id, send)


def read_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The client's id if the client sent exactly one plain id, otherwise a new id.

    Ray sends the id back, this service logs it, and `/v1/feedback` takes it.
    """
    sent = [value for name, value in headers if name == REQUEST_ID_HEADER]
    if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]):
        return sent[0]
    return str(uuid.uuid4()).encode()


def clean(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers to pass on, without the request's id.

    Raises:
        InvalidField: a header by which a client chooses is there twice or is not ASCII.
    """
    kept: Headers = []
    seen: set[bytes] = set()
    for name, value in headers:
        if name == REQUEST_ID_HEADER or _is_dropped(name, value):
            continue
        if name in CONTROLS:
            _check_control(name, value, seen)
        kept.append((name, value))
    return kept


def _is_dropped(name: bytes, value: bytes) -> bool:
    if name in TRACE:
        return not value.isascii()
    dashed = name.replace(b"_", b"-")
    if dashed == SESSION_HEADER:
        return name != dashed
    return dashed in DROPPED or dashed.startswith(DROPPED_PREFIX) or not name.isascii()


def _check_control(name: bytes, value: bytes, seen: set[bytes]) -> None:
    if name in seen:
        raise InvalidField(name.decode(), "the header once")
    if not value.isascii():
        raise InvalidField(name.decode(), "ASCII characters")
    seen.add(name)


def check_path(scope: Scope) -> None:
    """Raise RouteNotFound for Serve's pages that show the applications inside."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path.rstrip("/").lower() == ROUTES:
        raise RouteNotFound(scope["method"], ROUTES)


async def refuse(error: GatewayError, scope: Scope, request_id: bytes, send: Send) -> None:
    """Send the error in the dialect of the path, wherever the application is mounted."""
    anthropic = Endpoint.MESSAGES.value in scope["path"]
    body = render_error(error, anthropic=anthropic, request_id=request_id.decode())
    headers = [
        *error_headers(error),
        (b"content-length", str(len(body)).encode()),
        (REQUEST_ID_HEADER, request_id),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
