"""A gateway whose config asks who calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from serve_app.access.control import AccessControl
from serve_app.access.identity import Identity
from serve_app.config.access import AccessConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.app import build_gateway
from serve_app.gateway.browser import Files, NumbersSource
from serve_app.pipeline import Pipeline
from serve_app.replica.asgi import ASGIApp
from serve_app.routing.scorer import HeuristicScorer
from serve_app.steps import Limiter, Steps
from tests.fakes import FakeIdentifier, FakeReadiness, FakeRecorder, FakeTier

ENGINE = {"max_model_len": 4096}
TIERS = (
    TierConfig(name="fast", model_id="m-fast", engine=ENGINE, adapters={"hr": "/a/hr"}),
    TierConfig(name="strong", model_id="m-strong", engine=ENGINE),
)
VECTORS = TierConfig(name="vectors", model_id="m-vectors", tasks=("embed", "score"))
ROLES: dict[str, dict[str, Any]] = {
    "all": {"overrides": True},
    "user": {},
    "fast": {"tiers": ["fast"], "adapters": [], "output_tokens_max": 100},
    "hr": {"models": [], "adapters": ["hr"]},
    "chat": {"endpoints": ["/v1/chat/completions"], "feedback": False},
    "counter": {"endpoints": ["/v1/responses/input_tokens"]},
    "none": {"tiers": [], "feedback": False},
    "operator": {"endpoints": [], "feedback": False, "dashboard": True},
    "admin": {"endpoints": [], "feedback": False, "admin": True},
}


@dataclass
class Guarded:
    """The gateway and its parts."""

    app: ASGIApp
    client: httpx.AsyncClient
    pipeline: Pipeline
    fast: FakeTier
    strong: FakeTier
    identifier: FakeIdentifier
    recorder: FakeRecorder

    async def ask(self, role: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        """A request by a caller with this role, None for a client without a key."""
        headers = {**more.pop("headers", {})}
        if role is not None:
            headers["authorization"] = f"Bearer {role}"
        return await self.client.request(method, path, headers=headers, **more)

    async def chat(self, role: str | None, **body: Any) -> httpx.Response:
        headers = body.pop("headers", {})
        document = {"messages": [{"role": "user", "content": "Hi"}], **body}
        path = "/v1/chat/completions"
        return await self.ask(role, "POST", path, json=document, headers=headers)


def build_guarded(
    access: dict[str, Any] | None = None,
    *,
    tiers: tuple[TierConfig, ...] = TIERS,
    feedback: FeedbackCollector | None = None,
    limiter: Limiter | None = None,
    files: Files | None = None,
    watch: NumbersSource | None = None,
    **runtime: Any,
) -> Guarded:
    """A gateway over two fake engines, of which `strong` stands for further tiers too; a key is the
    name of its only role."""
    config = AccessConfig.model_validate(
        {"roles": ROLES, "anonymous": {"roles": ["none"]}, **(access or {})}
    )
    if "anonymous" not in (access or {}):
        # A config needs a source of keys, and the fake one has no config.
        config = config.model_copy(update={"anonymous": None})
    identifier = FakeIdentifier(
        {role: Identity("acme", key_id=role, user="ann", roles=(role,)) for role in config.roles}
    )
    control = AccessControl(config, tiers, identifier)
    fast, strong, recorder = FakeTier(), FakeTier(), FakeRecorder()
    parsed = RuntimeConfig.model_validate(runtime).model_copy(update={"access": config})
    fakes = {tier.name: fast if tier.name == "fast" else strong for tier in tiers}
    steps = Steps(access=control, limiter=limiter)
    pipeline = Pipeline(tiers, fakes, HeuristicScorer(), parsed, None, steps)
    app = build_gateway(
        tiers, pipeline, recorder, FakeReadiness(), feedback=feedback, files=files, watch=watch
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    return Guarded(app, client, pipeline, fast, strong, identifier, recorder)
