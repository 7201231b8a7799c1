"""Carries the lines of batches through the gateway in which they run, like calls of clients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from starlette.types import ASGIApp, Message, Scope

from serve_app.batches.batch import BatchOwner, LineFault
from serve_app.batches.lines import LineAnswer
from serve_app.core.call import Endpoint
from serve_app.core.caller import Caller, LineTurn, Priority
from serve_app.core.errors import GatewayError
from serve_app.core.headers import REQUEST_ID_HEADER
from serve_app.gateway.dialect import translate
from serve_app.gateway.guard import CALLER, check_endpoint
from serve_app.gateway.render import JSON_CONTENT
from serve_app.gateway.wire import parse_call
from serve_app.pipeline import Pipeline
from serve_app.routing.choose import check_model

BATCH_ENDPOINTS = (
    Endpoint.CHAT,
    Endpoint.COMPLETIONS,
    Endpoint.RESPONSES,
    Endpoint.EMBEDDINGS,
)
ROUTE_HEADERS = b"x-route-"
RETRY_AFTER = b"retry-after"


class InProcessCalls:
    """The LineCalls of a Router: each line goes through the Router's own application."""

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    @property
    def body_bytes_max(self) -> int:
        """The longest body of a call."""
        return self._pipeline.runtime.limits.body_bytes_max

    def check(self, owner: BatchOwner, endpoint: str, body: bytes) -> LineFault | None:
        """What is wrong with a call, as far as that can be said without an engine."""
        try:
            check_line(self._pipeline, self._find_caller(owner), Endpoint(endpoint), body)
        except GatewayError as error:
            return LineFault(error.counted_as, error.message, error.param)
        return None

    async def call(
        self, owner: BatchOwner, endpoint: str, body: bytes, request_id: str, turn: LineTurn
    ) -> LineAnswer:
        """The answer to a call of the owner, with the priority of a batch."""
        exchange = _Exchange(body)
        caller = replace(self._find_caller(owner), turn=turn)
        scope = make_scope(endpoint, body, request_id, caller)
        await self._app(scope, exchange.receive, exchange.send)
        return exchange.answer(request_id)

    def _find_caller(self, owner: BatchOwner) -> Caller:
        """The owner with the rights of today, and the priority of a batch."""
        caller = Caller(owner.tenant, owner.key_id, owner.user, owner.roles, owner.address)
        access = self._pipeline.steps.access
        if access is not None:
            caller = access.renew(caller)
        return replace(caller, rights=replace(caller.rights, priority=Priority.BATCH))


def check_line(pipeline: Pipeline, caller: Caller, endpoint: Endpoint, body: bytes) -> None:
    """Check a call as far as that can be done without an engine.

    Raises:
        GatewayError: the call is wrong, or the caller may not make it.
    """
    check_endpoint(caller, endpoint)
    translation = translate(endpoint, body)
    call = parse_call(
        translation.engine_endpoint,
        translation.body,
        request_id="",
        tier=None,
        bodies=pipeline.runtime.bodies,
    )
    check_model(pipeline.authorise(call, caller), pipeline.visible(caller))


def make_scope(endpoint: str, body: bytes, request_id: str, caller: Caller) -> Scope:
    """The ASGI scope of a call that no connection brought."""
    headers = [
        JSON_CONTENT,
        (b"content-length", str(len(body)).encode()),
        (REQUEST_ID_HEADER, request_id.encode()),
    ]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": endpoint,
        "raw_path": endpoint.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
        CALLER: caller,
    }


@dataclass(slots=True)
class _Exchange:
    """Both sides of one call that no connection carries."""

    body: bytes
    status: int = 500
    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    async def receive(self) -> Message:
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.chunks.append(message.get("body", b""))

    def answer(self, request_id: str) -> LineAnswer:
        """The answer, once the application has returned."""
        retry_after = self.headers.get(RETRY_AFTER)
        routed = {
            name.decode(): value.decode("latin-1")
            for name, value in self.headers.items()
            if name.startswith(ROUTE_HEADERS)
        }
        return LineAnswer(
            self.status,
            request_id,
            b"".join(self.chunks),
            routed,
            None if retry_after is None else float(retry_after),
        )
