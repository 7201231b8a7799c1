"""A gateway with the pages behind a real server, over scripted tiers: no Ray and no engine."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from serve_app.access.control import AccessControl
from serve_app.access.identity import Identity
from serve_app.config.access import AccessConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Record, TierState
from serve_app.core.chunks import Take
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import GatewayError
from serve_app.core.load import TierLoad
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.app import build_gateway
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.draft_report import DRAFT_HEADER
from serve_app.pages.assets import read_assets
from serve_app.pages.numbers import RouterNumbers
from serve_app.pages.own_numbers import OwnNumbers
from serve_app.pages.watch import NumbersWatch, Replies, gather_replies
from serve_app.pipeline import Pipeline
from serve_app.routing.choice import build_scorer
from serve_app.steps import Steps
from tests.fakes import FakeIdentifier

TIERS = (
    TierConfig(name="fast", model_id="demo-fast", engine={"max_model_len": 4096}),
    TierConfig(name="strong", model_id="demo-strong", engine={"max_model_len": 4096}),
)
RUNTIME: dict[str, Any] = {
    "pages": {"playground": True, "dashboard": True},
    "prices": {
        "tiers": {"fast": {"input": 0.1, "output": 0.4}, "strong": {"input": 1, "output": 4}}
    },
}
ROLES: dict[str, dict[str, Any]] = {
    "user": {},
    "operator": {"dashboard": True},
    "admin": {"admin": True},
}


def render_event(**document: object) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def render_words(words: Sequence[str]) -> list[bytes]:
    """A chat stream of these words, with its usage at the end."""
    deltas = [render_event(choices=[{"index": 0, "delta": {"content": word}}]) for word in words]
    usage = {"prompt_tokens": 20, "completion_tokens": len(words)}
    return [*deltas, render_event(choices=[], usage=usage), b"data: [DONE]\n\n"]


class ScriptedAnswer:
    """A stream that waits at its gate after the first chunk."""

    def __init__(
        self, chunks: Sequence[bytes], gate: asyncio.Event, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        self.status = 200
        self.headers = [(b"content-type", b"text/event-stream"), *headers]
        self._chunks = list(chunks)
        self._gate = gate
        self._begun = False

    async def read(self) -> bytes:
        if self._begun:
            await self._gate.wait()
        self._begun = True
        return self._chunks.pop(0) if self._chunks else b""

    def divert(self, take: Take) -> None:
        """No chunk comes from a connection."""


class ScriptedTier:
    """A tier that streams the same words to every call; a closed `gate` holds all but the first."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: GatewayError | None = None
        self.report: bytes | None = None
        """The report on a draft, for the cascade."""
        self.state = TierLoad()
        self.engines: Sequence[tuple[str, int, int, float | None]] = ()
        self.watched = False
        self.bodies: list[Any] = []
        self.open_leases = 0

    @property
    def down(self) -> bool:
        return self.state.down

    def load(self) -> TierLoad:
        return self.state

    def watch(self, *, on: bool) -> None:
        self.watched = on

    def engine_reports(self) -> Sequence[tuple[str, int, int, float | None]]:
        return self.engines

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[ScriptedAnswer]:
        if self.error is not None:
            raise self.error
        self.bodies.append(json.loads(request._body))
        self.open_leases += 1
        drafting = request._draft_tokens and self.report is not None
        headers = [(DRAFT_HEADER, self.report)] if drafting and self.report else []
        try:
            yield ScriptedAnswer(render_words(self.words), self.gate, headers)
        finally:
            self.open_leases -= 1


class ScriptedStates:
    """The tiers' states as Serve would report them."""

    def __init__(self) -> None:
        self.states = [TierState(tier.name, tier.model_id, True, 1, "HEALTHY") for tier in TIERS]

    async def tiers(self) -> Sequence[TierState]:
        return self.states


@dataclass
class Site:
    """The running gateway and its parts. `others` are the numbers of other Routers."""

    url: str
    pipeline: Pipeline
    fast: ScriptedTier
    strong: ScriptedTier
    states: ScriptedStates
    numbers: OwnNumbers
    watch: NumbersWatch | None = None
    others: list[Callable[[], Awaitable[RouterNumbers]]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def finish(self, record: Record) -> None:
        """Take a record, as the Router's recorder does."""
        self.records.append(record)
        self.numbers.settle(record)


@asynccontextmanager
async def running_site(
    *, guarded: bool = False, feedback_dir: str | None = None, **runtime: Any
) -> AsyncIterator[Site]:
    """The gateway on a free port of this machine."""
    feedback = {"feedback": {"directory": feedback_dir}}
    config = RuntimeConfig.model_validate({**RUNTIME, **feedback, **runtime})
    fast = ScriptedTier(["The capital", " of France", " is **Paris**."])
    strong = ScriptedTier(["4 * 6 = 24;", " 24 - 9", " = 15"])
    tiers = {"fast": fast, "strong": strong}
    access = build_access() if guarded else None
    steps = Steps(access=access, prices=config.prices)
    pipeline = Pipeline(TIERS, tiers, build_scorer(config.routing), config, None, steps)
    states = ScriptedStates()
    site = Site("", pipeline, fast, strong, states, OwnNumbers("router-a", pipeline, tiers))

    async def read_own() -> RouterNumbers:
        return site.numbers.read()

    async def ask() -> Replies:
        return await gather_replies([read_own(), *(other() for other in site.others)], 0.5)

    watch = site.watch = NumbersWatch(ask, states, states.states, period_s=0.05)
    app = build_gateway(
        TIERS,
        pipeline,
        site,
        states,
        feedback=FeedbackCollector(TIERS, tiers, config, "router-a") if feedback_dir else None,
        files=read_assets(),
        watch=watch,
    )
    async with serving(app) as site.url:
        yield site
    watch.close()
    site.numbers.close()


def build_access() -> AccessControl:
    """Keys named as their only role."""
    config = AccessConfig.model_validate({"roles": ROLES, "anonymous": {"roles": ["user"]}})
    config = config.model_copy(update={"anonymous": None})
    identities = {role: Identity("acme", key_id=role, user="ann", roles=(role,)) for role in ROLES}
    return AccessControl(config, TIERS, FakeIdentifier(identities))


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The address of the app on a real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
