"""The Starlette app: every path that exists, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Protocol

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serve_app.config.tiers import TierConfig
from serve_app.core.call import AUTO, Endpoint, TierState
from serve_app.core.errors import (
    GatewayError,
    InternalError,
    MethodNotAllowed,
    ModelNotFound,
    RouteNotFound,
)
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.feedback import build_feedback_page, read_page_body
from serve_app.gateway.handlers import CallHandler, ClientGone, Recorder
from serve_app.gateway.openapi import build_openapi_page
from serve_app.gateway.render import (
    error_headers,
    model_card,
    render_decision,
    render_error,
    render_models,
)
from serve_app.gateway.request_headers import RequestHeaders
from serve_app.gateway.stored_responses import response_routes
from serve_app.gateway.wire import detect_endpoint, parse_call, parse_json
from serve_app.pipeline import Pipeline


class Readiness(Protocol):
    """The source of the tiers' readiness."""

    async def tiers(self) -> Sequence[TierState]:
        """The state of every tier, at most a few seconds old."""
        ...


def build_gateway(
    configs: Sequence[TierConfig],
    pipeline: Pipeline,
    recorder: Recorder,
    readiness: Readiness,
    *,
    feedback: FeedbackCollector | None = None,
    echo_request_id: bool = True,
) -> Gateway:
    """The whole HTTP surface.

    `echo_request_id` is off behind Ray Serve, whose own server adds `x-request-id` to every answer.
    """
    calls = {
        endpoint.value: CallHandler(
            endpoint, pipeline, recorder, feedback=feedback, echo_request_id=echo_request_id
        )
        for endpoint in Endpoint
    }
    pages = Pages(configs, pipeline, readiness)
    pages_app = Starlette(
        routes=[
            *(Route(path, handler, methods=["POST"]) for path, handler in calls.items()),
            *response_routes(),
            Route("/v1/route", pages.explain_route, methods=["POST"]),
            Route("/v1/feedback", build_feedback_page(feedback), methods=["POST"]),
            Route("/v1/models", pages.list_models, methods=["GET"]),
            Route("/v1/models/{model_id:path}", pages.show_model, methods=["GET"]),
            Route("/openapi.json", build_openapi_page(), methods=["GET"]),
            Route("/health", pages.health, methods=["GET"]),
            Route("/ready", pages.ready, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            GatewayError: _gateway_error,
            ClientGone: _client_gone,
            Exception: _unforeseen_error,
        },
    )
    pages_app.router.redirect_slashes = False
    return Gateway(calls, pages_app)


class Gateway:
    """Pass generation calls straight to their handlers, and everything else to Starlette.

    Starlette's middleware would wrap `send` three times, which adds three calls for every token of
    a stream. The handlers turn their own errors into answers. A slash at the end of a path changes
    nothing.
    """

    def __init__(self, calls: Mapping[str, CallHandler], pages: Starlette) -> None:
        self._calls = calls
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_path(scope)
            handler = self._calls.get(path) if scope["method"] == "POST" else None
            if handler is not None:
                await handler(scope, receive, send)
                return
            scope["path"] = scope.get("root_path", "") + path
        await self._pages(scope, receive, send)


def route_path(scope: Scope) -> str:
    """The path below the application's mount point, without a slash at its end.

    ASGI defines that `path` includes `root_path`; Serve puts the application's `route_prefix`
    there.
    """
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.removesuffix("/") or "/"


class Pages:
    """The endpoints that this service answers without an engine."""

    def __init__(
        self, configs: Sequence[TierConfig], pipeline: Pipeline, readiness: Readiness
    ) -> None:
        tier_names = [tier.name for tier in configs]
        model_ids = [name for tier in configs for name in tier.model_ids]
        self._names = list(dict.fromkeys([AUTO, *tier_names, *model_ids]))
        self._pipeline = pipeline
        self._readiness = readiness
        self._created = int(time.time())

    async def list_models(self, request: Request) -> Response:
        return _json(render_models(self._names, self._created))

    async def show_model(self, request: Request) -> Response:
        model_id = request.path_params["model_id"]
        if model_id not in self._names:
            raise ModelNotFound(model_id)
        return _json(orjson.dumps(model_card(model_id, self._created)))

    async def explain_route(self, request: Request) -> Response:
        headers = RequestHeaders(request.scope)
        headers.check_media_type()
        limits = self._pipeline.runtime.limits
        body = await read_page_body(request.receive, headers, limits.body_bytes_max)
        endpoint = detect_endpoint(parse_json(body))
        call = parse_call(
            endpoint,
            body,
            request_id=headers.request_id,
            tier=headers.tier,
            limits=headers.limits,
            session=headers.session,
            policy=headers.policy,
            bodies=self._pipeline.runtime.bodies,
        )
        route = self._pipeline.decide(call)
        control = self._pipeline.control_state()
        document = {
            "object": "route",
            "endpoint": endpoint,
            **asdict(route.first),
            "otherwise": asdict(route.decision) if route.draft else None,
            "others": [asdict(other) for other in route.others],
            "control": control and asdict(control),
            "load": {name: asdict(load) for name, load in self._pipeline.loads().items()},
        }
        answer = _json(orjson.dumps(document))
        answer.raw_headers.extend(render_decision(route.first))
        return answer

    async def health(self, request: Request) -> Response:
        return _json(b'{"status":"ok"}')

    async def ready(self, request: Request) -> Response:
        loads = self._pipeline.loads()
        tiers = [
            replace(tier, breaker=loads[tier.name].breaker) if tier.name in loads else tier
            for tier in await self._readiness.tiers()
        ]
        ready = all(tier.ready for tier in tiers)
        body = {"ready": ready, "tiers": [asdict(tier) for tier in tiers]}
        return _json(orjson.dumps(body), status=200 if ready else 503)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    anthropic = route_path(request.scope).startswith(Endpoint.MESSAGES.value)
    request_id = RequestHeaders(request.scope).request_id
    body = render_error(error, anthropic=anthropic, request_id=request_id)
    response = Response(body, error.status)
    response.raw_headers.extend(error_headers(error))
    return response


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = _gateway_error(request, MethodNotAllowed(request.method, allowed))
        response.headers["allow"] = allowed
        return response
    return _gateway_error(request, RouteNotFound(request.method, route_path(request.scope)))


def _client_gone(request: Request, error: Exception) -> Response:
    # No client gets the answer. Serve's metrics show nginx's status 499 for it, as for other calls.
    return Response(status_code=499)


def _unforeseen_error(request: Request, error: Exception) -> Response:
    return _gateway_error(request, InternalError())
