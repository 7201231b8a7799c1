"""The order of the steps on the way of a call, and who settles it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from serve_app.config.prices import PriceConfig, PricesConfig
from serve_app.config.runtime import DeadlinesConfig, RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.audit_state import AuditState
from serve_app.core.call import CacheResult, Call, Endpoint, Prompt, Record, Route
from serve_app.core.caller import Caller, Credentials
from serve_app.core.errors import Forbidden, GatewayError, RateLimited
from serve_app.core.residence import Residence
from serve_app.gateway.wire import JsonPayload
from serve_app.leases.prefix_choice import Prefix
from serve_app.leases.tier import Answer, Tier
from serve_app.pipeline import Pipeline
from serve_app.routing.choice import build_scorer
from serve_app.steps import NO_STEPS, Open, Steps
from tests.fakes import FakeAnswer, FakeTier

ACME = Caller("acme", rights=Caller("x").rights)
PRICES = PricesConfig(tiers={"fast": PriceConfig(input=1, output=2)})


class Part:
    """A step that notes when it was asked, and may refuse."""

    def __init__(self, log: list[str], error: GatewayError | None = None) -> None:
        self.log = log
        self.error = error

    def start(self) -> None: ...

    async def close(self) -> None: ...

    def note(self, what: str) -> None:
        self.log.append(what)
        if self.error is not None:
            raise self.error


class SpyAccess(Part):
    async def authenticate(self, credentials: Credentials) -> Caller:
        self.note("authenticate")
        return ACME

    def authorise(self, call: Call, caller: Caller) -> Call:
        self.note(f"authorise {caller.tenant}")
        return call

    def visible(self, caller: Caller, tiers: Sequence[TierConfig]) -> Sequence[TierConfig]:
        self.note("visible")
        return tiers[:1]


class SpyLimiter(Part):
    async def reserve(self, call: Call, record: Record, route: Route) -> SpyLimiter:
        self.note(f"reserve {route.first.tier}")
        return self

    def settle(self, record: Record) -> None:
        self.note(f"settle {record.cost}")


class SpyCache(Part):
    @asynccontextmanager
    async def answer(
        self, call: Call, record: Record, route: Route, begin: Open
    ) -> AsyncIterator[Answer]:
        self.note("look up")
        record.cache = CacheResult.MISS
        async with begin() as answer:
            yield answer


class SpyAudit(Part):
    def check(self) -> None:
        self.note("check")

    def watch(self, call: Call, record: Record, answer: Answer) -> Answer:
        return answer

    def add(self, record: Record) -> None:
        self.note("audit")

    def state(self) -> AuditState:
        return AuditState()


def make_pipeline(steps: Steps) -> tuple[Pipeline, FakeTier]:
    tier = FakeTier(FakeAnswer([b"{}"]))
    configs = [TierConfig(name=name, model_id=f"demo-{name}") for name in ("fast", "strong")]
    runtime = RuntimeConfig()
    tiers: dict[str, Tier] = {"fast": tier, "strong": FakeTier()}
    return Pipeline(configs, tiers, build_scorer(runtime.routing), runtime, None, steps), tier


def make_call() -> tuple[Call, Record]:
    call = Call("r1", Endpoint.CHAT, "auto", JsonPayload({"messages": []}), Prompt())
    return call, Record("r1", Endpoint.CHAT, stream=False)


async def run(pipeline: Pipeline) -> Record:
    call, record = make_call()
    record.caller = await pipeline.authenticate(Credentials())
    deadlines = DeadlinesConfig().start(asyncio.get_running_loop().time())
    try:
        async with pipeline.answer(call, record, deadlines) as answer:
            assert await answer.read() == b"{}"
        record.usage.prompt_tokens, record.usage.completion_tokens = 10, 3
    finally:
        pipeline.settle(record)
    return record


async def test_the_steps_come_in_their_order() -> None:
    """Nobody is charged before being let in, and nothing is audited before it is priced."""
    log: list[str] = []
    steps = Steps(SpyAccess(log), SpyLimiter(log), SpyCache(log), SpyAudit(log), PRICES)
    pipeline, tier = make_pipeline(steps)
    record = await run(pipeline)
    assert log == [
        "authenticate", "check", "authorise acme", "visible", "reserve fast", "look up",
        "settle 16000", "audit",
    ]  # fmt: skip
    assert len(tier.requests) == 1
    assert record.cost == 16000


@pytest.mark.parametrize("who", ["audit", "access", "limiter"])
async def test_a_refused_call_reaches_no_engine(who: str) -> None:
    """A refusal ends the call, and frees the Router's place for it."""
    log: list[str] = []
    if who == "audit":
        steps = Steps(audit=SpyAudit(log, RateLimited("x", 1)))
    elif who == "access":
        steps = Steps(access=SpyAccess(log, Forbidden("x")))
    else:
        steps = Steps(limiter=SpyLimiter(log, RateLimited("x", 1)))
    pipeline, tier = make_pipeline(steps)
    call, record = make_call()
    with pytest.raises(GatewayError):
        async with pipeline.answer(call, record, DeadlinesConfig().start(0.0)):
            pass
    assert not tier.requests
    assert sum(pipeline.wanted.values()) == 0


class FakeCache:
    """The caches of a tier, which remember what they were asked."""

    def __init__(self, residence: Residence) -> None:
        self._residence = residence
        self.asked: list[str] = []

    def residence(self, prefix: Prefix) -> Residence:
        self.asked.append(prefix.model)
        return self._residence


@pytest.mark.parametrize(("weight", "reason"), [(0.0, "simple"), (1.0, "warm")])
def test_caches_are_asked_only_where_they_count(weight: float, reason: str) -> None:
    """By the model that would answer, and in seconds of all GPUs of a replica."""
    caches = {"fast": FakeCache(Residence(0.3)), "strong": FakeCache(Residence(0.2))}
    configs = [
        TierConfig(name="fast", model_id="demo-fast"),
        TierConfig(name="strong", model_id="demo-strong", engine={"tensor_parallel_size": 4}),
    ]
    runtime = RuntimeConfig.model_validate({"routing": {"residency_weight": weight}})
    tiers: dict[str, Tier] = {"fast": FakeTier(), "strong": FakeTier()}
    scorer = build_scorer(runtime.routing)
    pipeline = Pipeline(configs, tiers, scorer, runtime, None, NO_STEPS, caches)
    decision = pipeline.decide(make_call()[0]).decision
    assert decision.reason == reason
    if weight:
        assert decision.score is not None
        assert decision.weighed == pytest.approx(decision.score + 4 * 0.2 - 0.3)
        assert [cache.asked for cache in caches.values()] == [["demo-fast"], ["demo-strong"]]
    else:
        assert not any(cache.asked for cache in caches.values())
