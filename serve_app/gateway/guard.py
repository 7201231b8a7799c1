"""Who may read which page, and who may call which path.

A page without a ruling stops the start of the gateway, so nobody can forget one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from serve_app.core.call import Endpoint
from serve_app.core.caller import ANONYMOUS, Caller
from serve_app.core.errors import Forbidden, GatewayError, RouteNotFound
from serve_app.gateway.credentials import read_credentials
from serve_app.gateway.paths import route_path
from serve_app.pipeline import Pipeline

Page = Callable[[Request], Awaitable[Response]]

CALLER = "serve_app.caller"
"""The key of the caller in a request's scope."""


class PageRuling(StrEnum):
    """Who may read a page, where the config asks for proof."""

    OPEN = "open"
    """Everybody."""
    CALLER = "caller"
    """Every caller. What the page shows or does depends on the caller's rights."""
    FEEDBACK = "feedback"
    """A caller who may send feedback."""
    WATCHER = "watcher"
    """A caller who may watch the traffic of all callers; everybody where the config asks for no
    proof."""
    ADMIN = "admin"
    """An admin. The page does not exist where the config asks for no proof."""


RULINGS: Mapping[str, PageRuling] = MappingProxyType(
    {
        # Load balancers and Kubernetes ask without a key.
        "/health": PageRuling.OPEN,
        "/ready": PageRuling.OPEN,
        # The document is part of the release and says nothing about a service.
        "/openapi.json": PageRuling.OPEN,
        # The files of the pages for people say nothing about a service either; what their scripts
        # fetch is not open.
        "/playground": PageRuling.OPEN,
        "/dashboard": PageRuling.OPEN,
        "/pages/{digest}/{name}": PageRuling.OPEN,
        "/playground/facts": PageRuling.CALLER,
        "/dashboard/events": PageRuling.WATCHER,
        "/v1/route": PageRuling.CALLER,
        "/v1/models": PageRuling.CALLER,
        "/v1/models/{model_id:path}": PageRuling.CALLER,
        "/v1/responses/{response_id}": PageRuling.CALLER,
        "/v1/responses/{response_id}/cancel": PageRuling.CALLER,
        "/v1/responses/{response_id}/input_items": PageRuling.CALLER,
        "/v1/feedback": PageRuling.FEEDBACK,
        # A caller sees the files and batches of the own tenant.
        "/v1/files": PageRuling.CALLER,
        "/v1/files/{file_id}": PageRuling.CALLER,
        "/v1/files/{file_id}/content": PageRuling.CALLER,
        "/v1/batches": PageRuling.CALLER,
        "/v1/batches/{batch_id}": PageRuling.CALLER,
        "/v1/batches/{batch_id}/cancel": PageRuling.CALLER,
        "/admin/state": PageRuling.ADMIN,
        "/admin/limits": PageRuling.ADMIN,
        "/admin/keys": PageRuling.ADMIN,
        "/admin/config": PageRuling.ADMIN,
    }
)
"""The ruling on every page. `CallHandler` checks who may call an `Endpoint`."""

OPEN_PATHS = frozenset(path for path, ruling in RULINGS.items() if ruling is PageRuling.OPEN)
OPEN_FILES = re.compile(r"/pages/[^/]+/[^/]+")
"""The addresses of the pages' files."""


class Guard:
    """Finds the callers of pages, and keeps pages from callers who may not read them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def admit(self, scope: Scope, path: str) -> None:
        """Note the caller of a request in its scope, unless the path is open to everybody.

        Raises:
            Unauthorized, Forbidden, AccessUnavailable: as in `Pipeline.authenticate`.
        """
        if self._pipeline.steps.access is not None and not is_open(path):
            scope[CALLER] = await self._pipeline.authenticate(read_credentials(scope))

    async def recognise(self, request: Request) -> Caller | None:
        """The caller of an open page, None for a client that does not show who it is."""
        if self._pipeline.steps.access is None:
            return ANONYMOUS
        credentials = read_credentials(request.scope)
        if credentials.authorization is None and credentials.api_key is None:
            return None
        try:
            return await self._pipeline.authenticate(credentials)
        except GatewayError:
            return None

    def page(self, path: str, page: Page, methods: list[str]) -> Route:
        """The route of a page, by the ruling on it.

        Raises:
            KeyError: there is no ruling.
        """
        check = CHECKS[RULINGS[path]]

        async def guarded(request: Request) -> Response:
            check(request)
            return await page(request)

        return Route(path, guarded, methods=methods)


def is_open(path: str) -> bool:
    """Whether everybody may read the path."""
    return path in OPEN_PATHS or OPEN_FILES.fullmatch(path) is not None


def read_caller(request: Request) -> Caller:
    """The caller of a page."""
    return find_caller(request.scope)


def find_caller(scope: Scope) -> Caller:
    """The caller that was noted in a request's scope."""
    caller: Caller = scope.get(CALLER, ANONYMOUS)
    return caller


def check_endpoint(caller: Caller, endpoint: Endpoint) -> None:
    """Raise Forbidden unless the caller may call the path."""
    allowed = caller.rights.endpoints
    if allowed is not None and endpoint not in allowed:
        raise Forbidden(f"call {endpoint.value}")


def _check_nothing(request: Request) -> None:
    pass


def _check_feedback(request: Request) -> None:
    if not read_caller(request).rights.feedback:
        raise Forbidden("send feedback")


def _check_watcher(request: Request) -> None:
    if CALLER in request.scope and not read_caller(request).rights.dashboard:
        raise Forbidden("watch the dashboard")


def _check_admin(request: Request) -> None:
    if CALLER not in request.scope:
        raise RouteNotFound(request.method, route_path(request.scope))
    if not read_caller(request).rights.admin:
        raise Forbidden("read the pages of admins")


CHECKS: Mapping[PageRuling, Callable[[Request], None]] = MappingProxyType(
    {
        PageRuling.OPEN: _check_nothing,
        PageRuling.CALLER: _check_nothing,
        PageRuling.FEEDBACK: _check_feedback,
        PageRuling.WATCHER: _check_watcher,
        PageRuling.ADMIN: _check_admin,
    }
)
