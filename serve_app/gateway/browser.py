"""The pages for people, and what their scripts ask for. They are no part of the API.

The files of the pages are open to everybody, because a browser sends no key with them, and they say
nothing about a service. What the scripts fetch asks for the key that its reader has typed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Scope

from serve_app.config.prices import PricesConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.caller import Caller
from serve_app.core.errors import RouteNotFound
from serve_app.gateway.guard import Guard, read_caller
from serve_app.gateway.paths import route_path
from serve_app.pipeline import Pipeline

PLAYGROUND = "/playground"
DASHBOARD = "/dashboard"
FILES = "/pages/{digest}/{name}"
FACTS = "/playground/facts"
EVENTS = "/dashboard/events"
BROWSER_PATHS = frozenset({PLAYGROUND, DASHBOARD, FILES, FACTS, EVENTS})
"""Paths that are not in `/openapi.json`, because they may change with every release."""

STREAM_S = 30.0
"""How long one stream of events lasts; the page then asks for the next. A Router that is being
removed waits for its open streams, and a key that was revoked ends with its stream."""
FOR_EVER = "public, max-age=31536000, immutable"

SECURITY: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""No script or style but our own files, no other address, no frame; and no text of a model can
become HTML, because the browser takes none from a script."""


class File(Protocol):
    """A file of a page."""

    @property
    def body(self) -> bytes: ...
    @property
    def media_type(self) -> str: ...
    @property
    def etag(self) -> str: ...


class Files(Protocol):
    """The files of the pages by name; see `pages/assets.py`."""

    @property
    def digest(self) -> str: ...
    @property
    def files(self) -> Mapping[str, File]: ...


class Watch(Protocol):
    """The source of the live numbers of all Routers; see `pages/watch.py`."""

    def follow(self) -> AsyncIterator[bytes]:
        """The newest numbers as JSON, again and again.

        Raises:
            TooManyCalls: too many pages are open already.
        """
        ...


class BrowserPages:
    """The pages for people, as far as the config has them."""

    def __init__(self, pipeline: Pipeline, files: Files | None, watch: Watch | None) -> None:
        self._pipeline = pipeline
        self._files = files
        self._watch = watch

    def routes(self, guard: Guard) -> list[Route]:
        """The routes, by the rulings on them."""
        pages = {
            PLAYGROUND: self.show_playground,
            DASHBOARD: self.show_dashboard,
            FILES: self.show_file,
            FACTS: self.show_facts,
            EVENTS: self.stream_numbers,
        }
        return [guard.page(path, page, ["GET"]) for path, page in pages.items()]

    def welcome(self, scope: Scope, path: str) -> Response | None:
        """The answer to a browser at `/`: the way to the playground. None for API clients, which
        do not ask for HTML, and where there is no playground."""
        if path != "/" or scope["method"] not in ("GET", "HEAD") or not self._has_playground:
            return None
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
        if b"text/html" not in accepted.lower():
            return None
        headers = {"vary": "accept", "cache-control": "no-store", **SECURITY}
        return RedirectResponse(scope.get("root_path", "") + PLAYGROUND, 303, headers)

    @property
    def _has_playground(self) -> bool:
        return self._files is not None and self._pipeline.runtime.pages.playground

    @property
    def _has_dashboard(self) -> bool:
        return self._files is not None and self._pipeline.runtime.pages.dashboard

    async def show_playground(self, request: Request) -> Response:
        return self._show_page(request, "playground.html", exists=self._has_playground)

    async def show_dashboard(self, request: Request) -> Response:
        return self._show_page(request, "dashboard.html", exists=self._has_dashboard)

    def _show_page(self, request: Request, name: str, *, exists: bool) -> Response:
        if not exists or self._files is None:
            raise _not_found(request)
        if request.scope.get("raw_path", b"").endswith(b"/"):
            # The page names its files relative to its own address.
            address = request.scope.get("root_path", "") + route_path(request.scope)
            return RedirectResponse(address, 308, SECURITY)
        return _send_file(request, self._files.files[name], "no-cache")

    async def show_file(self, request: Request) -> Response:
        """A script, style or picture. While Routers are replaced by a new release, a page of one
        release may get a file of the other, which the browser must not keep."""
        files, name = self._files, request.path_params["name"]
        exists = self._has_playground or self._has_dashboard
        if not exists or files is None or name not in files.files or name.endswith(".html"):
            raise _not_found(request)
        current = request.path_params["digest"] == files.digest
        return _send_file(request, files.files[name], FOR_EVER if current else "no-store")

    async def show_facts(self, request: Request) -> Response:
        """What the scripts of the pages need to know of the service and of their reader."""
        if not (self._has_playground or self._has_dashboard):
            raise _not_found(request)
        caller, pipeline = read_caller(request), self._pipeline
        tiers = [tier for tier in pipeline.visible(caller) if "generate" in tier.tasks]
        guarded = pipeline.steps.access is not None
        prices = pipeline.steps.prices
        facts = {
            "tiers": [describe_tier(tier, prices) for tier in tiers],
            "currency": None if prices is None else prices.currency,
            "policy": pipeline.runtime.routing.policy,
            "overrides": not guarded or caller.rights.overrides,
            "feedback": pipeline.runtime.feedback.directory is not None
            and (not guarded or caller.rights.feedback),
            "playground": self._has_playground,
            "dashboard": self._has_dashboard and self._may_watch(caller),
            "caller": {"tenant": caller.tenant, "user": caller.user} if guarded else None,
        }
        return _json(facts)

    def _may_watch(self, caller: Caller) -> bool:
        return self._pipeline.steps.access is None or caller.rights.dashboard

    async def stream_numbers(self, request: Request) -> Response:
        """The numbers of all Routers, as server-sent events."""
        if not self._has_dashboard or self._watch is None:
            raise _not_found(request)
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        stream = limit_stream(self._watch.follow())
        # The first event is awaited here, so that a refusal is an answer with its own status.
        first = await anext(stream, b"")
        return StreamingResponse(
            _render_events(first, stream), headers=headers, media_type="text/event-stream"
        )


async def limit_stream(
    numbers: AsyncIterator[bytes], seconds: float = STREAM_S
) -> AsyncIterator[bytes]:
    """The same numbers for a limited time."""
    ends_at = asyncio.get_running_loop().time() + seconds
    while (left := ends_at - asyncio.get_running_loop().time()) > 0:
        try:
            async with asyncio.timeout(left):
                document = await anext(numbers)
        except (TimeoutError, StopAsyncIteration):
            return
        yield document


async def _render_events(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield b"data: " + first + b"\n\n"
    async for document in rest:
        yield b"data: " + document + b"\n\n"


def describe_tier(tier: TierConfig, prices: PricesConfig | None) -> dict[str, object]:
    """A tier as the playground shows it; prices are nanos a token."""
    price = None
    if prices is not None and prices.has(tier.name, tier.model_id):
        price = prices.find(tier.name, tier.model_id)
    return {"name": tier.name, "model_id": tier.model_id, "price": price}


def _send_file(request: Request, file: File, cache: str) -> Response:
    headers = {"etag": file.etag, "cache-control": cache, **SECURITY}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers, media_type=file.media_type)


def _json(document: Mapping[str, object]) -> Response:
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(orjson.dumps(document), headers=headers, media_type="application/json")


def _not_found(request: Request) -> RouteNotFound:
    return RouteNotFound(request.method, route_path(request.scope))
