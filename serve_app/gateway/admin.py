"""`GET /admin/...`: what an admin may see of a Router; nothing of it is a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.config.tiers import TierConfig
from serve_app.core.caller import Caller
from serve_app.core.errors import RouteNotFound
from serve_app.gateway.guard import Guard, read_caller
from serve_app.gateway.paths import route_path
from serve_app.gateway.readiness import Readiness
from serve_app.pipeline import Pipeline
from serve_app.steps import DescribesLimits

HIDDEN = "(hidden)"
SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:api_?keys?|credentials?|passphrase|password|pepper|secrets?|tokens?)$"
)
"""The names of values that may be secrets: of engine arguments, for example `hf_token`."""
PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
"""The user and password of an address."""


class AdminPages:
    """The pages of admins."""

    def __init__(
        self, configs: Sequence[TierConfig], pipeline: Pipeline, readiness: Readiness
    ) -> None:
        self._configs = configs
        self._pipeline = pipeline
        self._readiness = readiness

    def routes(self, guard: Guard) -> list[Route]:
        """The routes, by the rulings on them."""
        pages = {
            "/admin/state": self.show_state,
            "/admin/limits": self.show_limits,
            "/admin/keys": self.list_keys,
            "/admin/config": self.show_config,
        }
        return [guard.page(path, page, ["GET"]) for path, page in pages.items()]

    async def show_state(self, request: Request) -> Response:
        pipeline = self._pipeline
        control = pipeline.control_state()
        return _json(
            {
                "object": "admin.state",
                "calls": pipeline.in_flight,
                "tiers": [asdict(tier) for tier in await self._readiness.tiers()],
                "load": {name: asdict(load) for name, load in pipeline.loads().items()},
                "wanted": pipeline.wanted,
                "control": control and asdict(control),
            }
        )

    async def show_limits(self, request: Request) -> Response:
        limiter = self._pipeline.steps.limiter
        if not isinstance(limiter, DescribesLimits):
            raise RouteNotFound(request.method, route_path(request.scope))
        caller = _read_asked_caller(request)
        limits = list(await limiter.describe(caller))
        shown = {"tenant": caller.tenant, "key_id": caller.key_id, "user": caller.user}
        return _json({"object": "admin.limits", **shown, "limits": limits})

    async def list_keys(self, request: Request) -> Response:
        access = self._pipeline.steps.access
        keys = None if access is None else await access.describe_keys()
        if keys is None:
            raise RouteNotFound(request.method, route_path(request.scope))
        return _json({"object": "list", "data": list(keys)})

    async def show_config(self, request: Request) -> Response:
        tiers = [render_config(tier) for tier in self._configs]
        runtime = render_config(self._pipeline.runtime)
        return _json({"object": "admin.config", "tiers": tiers, "runtime": runtime})


def _read_asked_caller(request: Request) -> Caller:
    """The caller that the query names, otherwise the admin."""
    query = request.query_params
    if not query.keys() & {"tenant", "key_id", "user"}:
        return read_caller(request)
    return Caller(query.get("tenant", ""), query.get("key_id"), query.get("user"))


def render_config(config: BaseModel) -> dict[str, Any]:
    """A config as JSON, without the values that may be secrets.

    Secrets stand in files and in SecretStr fields, which hide themselves. What else an operator may
    have written into environment variables, engine arguments and addresses is hidden here.
    """
    hidden: dict[str, Any] = _hide(config.model_dump(mode="json", by_alias=True))
    return hidden


def _hide(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        secret = name == "env"
        return {key: HIDDEN if secret else _hide(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide(item, name) for item in value]
    if isinstance(value, str):
        return HIDDEN if SECRET_NAME.search(name) else PASSWORD.sub(f"{HIDDEN}@", value)
    return value


def _json(document: Mapping[str, object]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(orjson.dumps(document), headers=headers, media_type="application/json")
