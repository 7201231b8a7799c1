"""The Starlette app: every path that exists, and nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serve_app.config.tiers import TierConfig
from serve_app.core.call import AUTO, Endpoint
from serve_app.core.errors import (
    Forbidden,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    ModelNotFound,
    RouteNotFound,
)
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.admin import AdminPages
from serve_app.gateway.background import BackgroundResponses
from serve_app.gateway.batch_pages import BatchPages
from serve_app.gateway.browser import BrowserPages, Files, NumbersSource
from serve_app.gateway.feedback import build_feedback_page, read_page_body
from serve_app.gateway.guard import Guard, check_endpoint, read_caller
from serve_app.gateway.handlers import CallHandler, ClientGone, Recorder
from serve_app.gateway.held_bodies import BodyPlace, HeldBodies
from serve_app.gateway.openapi import build_openapi_page
from serve_app.gateway.paths import route_path
from serve_app.gateway.readiness import Readiness
from serve_app.gateway.render import (
    error_headers,
    model_card,
    render_decision,
    render_error,
    render_models,
)
from serve_app.gateway.request_headers import RequestHeaders
from serve_app.gateway.wire import detect_endpoint, parse_call, parse_json
from serve_app.pipeline import Pipeline

logger = logging.getLogger("ray.serve")


def build_gateway(
    configs: Sequence[TierConfig],
    pipeline: Pipeline,
    recorder: Recorder,
    readiness: Readiness,
    *,
    feedback: FeedbackCollector | None = None,
    files: Files | None = None,
    watch: NumbersSource | None = None,
    echo_request_id: bool = True,
) -> Gateway:
    """The whole HTTP surface. Without `files` there are no pages for people, and without `watch`
    no live numbers.

    `echo_request_id` is off behind Ray Serve, whose own server adds `x-request-id` to every answer.
    """
    bodies = HeldBodies(pipeline)
    background = BackgroundResponses(pipeline)
    calls = {
        endpoint.value: CallHandler(
            endpoint,
            pipeline,
            recorder,
            bodies=bodies,
            feedback=feedback,
            background=background if endpoint is Endpoint.RESPONSES else None,
            echo_request_id=echo_request_id,
        )
        for endpoint in Endpoint
    }
    guard = Guard(pipeline)
    pages = Pages(pipeline, readiness, guard, bodies)
    browser = BrowserPages(pipeline, files, watch)
    pages_app = Starlette(
        routes=[
            *(Route(path, handler, methods=["POST"]) for path, handler in calls.items()),
            *background.routes(guard),
            *BatchPages(pipeline, bodies).routes(guard),
            *AdminPages(configs, pipeline, readiness).routes(guard),
            *browser.routes(guard),
            guard.page("/v1/route", pages.explain_route, ["POST"]),
            guard.page("/v1/feedback", build_feedback_page(feedback, bodies), ["POST"]),
            guard.page("/v1/models", pages.list_models, ["GET"]),
            guard.page("/v1/models/{model_id:path}", pages.show_model, ["GET"]),
            guard.page("/openapi.json", build_openapi_page(), ["GET"]),
            guard.page("/health", pages.health, ["GET"]),
            guard.page("/ready", pages.ready, ["GET"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            GatewayError: _gateway_error,
            ClientGone: _client_gone,
            Exception: _unforeseen_error,
        },
    )
    pages_app.router.redirect_slashes = False
    return Gateway(calls, pages_app, guard, browser)


class Gateway:
    """Pass generation calls straight to their handlers, and everything else to Starlette.

    Starlette's middleware would wrap `send` three times, which adds three calls for every token of
    a stream. The handlers turn their own errors into answers. A slash at the end of a path changes
    nothing.
    """

    def __init__(
        self,
        calls: Mapping[str, CallHandler],
        pages: Starlette,
        guard: Guard,
        browser: BrowserPages,
    ) -> None:
        self._calls = calls
        self._pages = pages
        self._guard = guard
        self._browser = browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_path(scope)
            handler = self._calls.get(path) if scope["method"] == "POST" else None
            if handler is not None:
                await handler(scope, receive, send)
                return
            scope["path"] = scope.get("root_path", "") + path
            answer = self._browser.welcome(scope, path) or await self._refuse(scope, path)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self._pages(scope, receive, send)

    async def _refuse(self, scope: Scope, path: str) -> Response | None:
        """The answer to a client that may read no page, None for any other client.

        It comes before the routing, so that such a client learns nothing of the pages.
        """
        try:
            await self._guard.admit(scope, path)
        except GatewayError as error:
            return _gateway_error(Request(scope), error)
        except Exception as error:
            logger.exception("a page found no caller")
            return _unforeseen_error(Request(scope), error)
        return None


class Pages:
    """The endpoints that this service answers without an engine."""

    def __init__(
        self, pipeline: Pipeline, readiness: Readiness, guard: Guard, bodies: HeldBodies
    ) -> None:
        self._guard = guard
        self._bodies = bodies
        self._pipeline = pipeline
        self._readiness = readiness
        self._created = int(time.time())

    async def list_models(self, request: Request) -> Response:
        return _json(render_models(self._list_names(request), self._created))

    def _list_names(self, request: Request) -> list[str]:
        """Every name that the caller may put into `model`."""
        tiers = self._pipeline.visible(read_caller(request))
        model_ids = [name for tier in tiers for name in tier.model_ids]
        return list(dict.fromkeys([AUTO, *(tier.name for tier in tiers), *model_ids]))

    async def show_model(self, request: Request) -> Response:
        model_id = request.path_params["model_id"]
        if model_id not in self._list_names(request):
            raise ModelNotFound(model_id)
        return _json(orjson.dumps(model_card(model_id, self._created)))

    async def explain_route(self, request: Request) -> Response:
        with BodyPlace(self._bodies) as held:
            return await self._explain(request, held)

    async def _explain(self, request: Request, held: BodyPlace) -> Response:
        headers = RequestHeaders(request.scope)
        headers.check_media_type()
        limits = self._pipeline.runtime.limits
        body = await read_page_body(request.receive, headers, limits.body_bytes_max, held)
        endpoint = detect_endpoint(parse_json(body))
        caller = read_caller(request)
        check_endpoint(caller, endpoint)
        call = parse_call(
            endpoint,
            body,
            request_id=headers.request_id,
            tier=headers.tier,
            limits=headers.limits,
            session=headers.session,
            policy=headers.policy,
            objective=headers.objective,
            bodies=self._pipeline.runtime.bodies,
        )
        route = self._pipeline.decide(self._pipeline.authorise(call, caller), caller)
        visible = {tier.name for tier in self._pipeline.visible(caller)}
        loads = self._pipeline.loads()
        # The controller's state tells of the traffic of all tiers.
        sees_all = visible == loads.keys()
        control = self._pipeline.control_state() if sees_all else None
        weights = self._pipeline.cost_weights() if sees_all else None
        document = {
            "object": "route",
            "endpoint": endpoint,
            **asdict(route.first),
            "otherwise": asdict(route.decision) if route.draft else None,
            "others": [asdict(other) for other in route.others],
            "control": control and asdict(control),
            "weights": weights and asdict(weights),
            "load": {name: asdict(load) for name, load in loads.items() if name in visible},
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
        names = await self._shown_tiers(request)
        body = {"ready": ready, "tiers": [asdict(tier) for tier in tiers if tier.name in names]}
        return _json(orjson.dumps(body), status=200 if ready else 503)

    async def _shown_tiers(self, request: Request) -> Collection[str]:
        """The names of the tiers that the readiness page shows; everybody may read the page."""
        caller = await self._guard.recognise(request)
        if caller is None:
            return ()
        if caller.rights.admin or self._pipeline.steps.access is None:
            return self._pipeline.wanted
        try:
            return [tier.name for tier in self._pipeline.visible(caller)]
        except Forbidden:
            return ()


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
