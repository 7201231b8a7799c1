"""The cache behind the gateway: what is answered from it, what is kept, and what is never kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.cache.answers import ResponseCache
from serve_app.cache.key import KeyMaker
from serve_app.cache.store import MemoryStore
from serve_app.config.cache import CacheConfig
from serve_app.config.cascade import CascadeConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import CacheResult
from serve_app.core.caller import Caller, Credentials
from serve_app.core.errors import TierUnavailable, UpstreamFailed
from serve_app.gateway.app import build_gateway
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from serve_app.steps import Steps
from tests.fakes import FakeAnswer, FakeReadiness, FakeRecorder, FakeTier
from tests.gateway.conftest import TIERS

HELLO = {"model": "fast", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
WHOLE = b'{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)
EVENTS = b"text/event-stream"


class TenantAccess:
    """Takes the API key for the tenant's name."""

    def start(self) -> None: ...

    async def close(self) -> None: ...

    async def authenticate(self, credentials: Credentials) -> Caller:
        return Caller((credentials.api_key or b"nobody").decode())

    def authorise(self, call, caller):  # type: ignore[no-untyped-def]
        return call

    def visible(self, caller, tiers):  # type: ignore[no-untyped-def]
        return tiers


class Service:
    """A gateway with a cache over one scripted tier."""

    def __init__(self, config: CacheConfig) -> None:
        self.fast = FakeTier()
        self.recorder = FakeRecorder()
        store = MemoryStore(config.bytes_max, config.ttl_s)
        cache = ResponseCache(config, KeyMaker(TIERS, CascadeConfig()), store)
        tiers = self.pipeline_tiers = {"fast": self.fast, "strong": FakeTier()}
        steps = Steps(cache=cache, access=TenantAccess())
        pipeline = Pipeline(TIERS, tiers, HeuristicScorer(), RuntimeConfig(), None, steps)  # type: ignore[arg-type]
        app = build_gateway(TIERS, pipeline, self.recorder, FakeReadiness())
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def ask(
        self,
        *,
        answer: FakeAnswer | None = None,
        headers: dict[str, str] | None = None,
        **body: object,
    ) -> httpx.Response:
        self.fast.answer = answer or FakeAnswer([WHOLE])
        document = {**HELLO, **body}
        return await self.client.post("/v1/chat/completions", json=document, headers=headers)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service(CacheConfig())
    async with service.client:
        yield service


def result(response: httpx.Response) -> str | None:
    return response.headers.get("x-cache")


async def test_a_repeated_call_is_answered_without_an_engine(service: Service) -> None:
    """The same bytes, the same decision, no tokens for the tier."""
    first = await service.ask()
    second = await service.ask()
    assert (result(first), result(second)) == ("miss", "hit")
    assert first.content == second.content == WHOLE
    assert second.headers["x-route-tier"] == "fast"
    assert len(service.fast.requests) == 1
    assert [record.cache for record in service.recorder.records] == [
        CacheResult.MISS,
        CacheResult.HIT,
    ]


async def test_a_stream_is_replayed_as_a_stream(service: Service) -> None:
    """A hit has the events of the answer, and hides the usage that the client did not ask for."""
    first = await service.ask(stream=True, answer=FakeAnswer(STREAM, content_type=EVENTS))
    second = await service.ask(stream=True)
    assert (result(first), result(second)) == ("miss", "hit")
    assert first.content == second.content == STREAM[0] + STREAM[2]
    assert service.recorder.records[1].usage.completion_tokens == 2


async def test_order_and_layout_of_the_body_do_not_matter(service: Service) -> None:
    """Two clients write the same call differently."""
    await service.ask()
    body = b'{"temperature" : 0, "messages": [{"content":"Hello","role":"user"}],"model":"fast"}'
    headers = {"content-type": "application/json"}
    again = await service.client.post("/v1/chat/completions", content=body, headers=headers)
    assert result(again) == "hit"


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 5},
        {"temperature": 0, "seed": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": "Hello!"}]},
        {"stream": True},
        {"model": "strong"},
        {"stop": ["x"]},
    ],
    ids=lambda change: "-".join(change),
)
async def test_whatever_shapes_the_answer_parts_the_keys(
    service: Service, change: dict[str, object]
) -> None:
    """A call that differs in one parameter gets an answer of its own."""
    await service.ask()
    assert result(await service.ask(**change)) == "miss"


async def test_no_tenant_gets_another_tenant_s_answer(service: Service) -> None:
    """The time of an answer would tell what another tenant has asked."""
    await service.ask(headers={"x-api-key": "acme"})
    assert result(await service.ask(headers={"x-api-key": "beta"})) == "miss"
    assert result(await service.ask(headers={"x-api-key": "acme"})) == "hit"


@pytest.mark.parametrize("temperature", [None, 0.7])
async def test_other_calls_pass_by_unless_they_ask_for_the_cache(
    service: Service, temperature: float | None
) -> None:
    """A call that wants variety gets variety."""
    assert result(await service.ask(temperature=temperature)) == "bypass"
    assert result(await service.ask(temperature=temperature)) == "bypass"
    use = {"x-cache": "use"}
    assert result(await service.ask(temperature=temperature, headers=use)) == "miss"
    assert result(await service.ask(temperature=temperature, headers=use)) == "hit"


async def test_no_store_neither_keeps_nor_gives(service: Service) -> None:
    """`cache-control: no-store` keeps a prompt out of the cache."""
    headers = {"cache-control": "max-age=0, No-Store"}
    assert result(await service.ask(headers=headers)) == "bypass"
    assert result(await service.ask()) == "miss"
    assert result(await service.ask(headers=headers)) == "bypass"


async def test_no_cache_asks_the_engine_and_keeps_the_new_answer(service: Service) -> None:
    """`cache-control: no-cache` refreshes."""
    await service.ask()
    new = WHOLE.replace(b"chatcmpl-1", b"chatcmpl-2")
    headers = {"cache-control": "no-cache"}
    assert result(await service.ask(answer=FakeAnswer([new]), headers=headers)) == "miss"
    assert (await service.ask()).content == new


async def test_a_wrong_header_is_named(service: Service) -> None:
    """A client that mistypes its wish learns it."""
    refused = await service.ask(headers={"x-cache": "please"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "x-cache"


@pytest.mark.parametrize(
    "answer",
    [
        FakeAnswer([WHOLE[:20]]),
        FakeAnswer([b'{"error":{"message":"x"}}']),
        FakeAnswer([b'{"choices":[{"finish_reason":"abort"}]}']),
        FakeAnswer([WHOLE], status=400),
        FakeAnswer([WHOLE[:20]], error=UpstreamFailed()),
    ],
    ids=["cut", "error", "aborted", "refused", "broken"],
)
async def test_a_broken_answer_is_never_stored(service: Service, answer: FakeAnswer) -> None:
    """The next call gets a new chance."""
    await service.ask(answer=answer)
    assert result(await service.ask()) == "miss"


@pytest.mark.parametrize(
    "chunks", [STREAM[:2], [*STREAM[:1], b'data: {"error":{"message":"x"}}\n\n']]
)
async def test_a_cut_stream_is_never_stored(service: Service, chunks: list[bytes]) -> None:
    """A stream without its last event is no answer."""
    await service.ask(stream=True, answer=FakeAnswer(chunks, content_type=EVENTS))
    whole = FakeAnswer(STREAM, content_type=EVENTS)
    assert result(await service.ask(stream=True, answer=whole)) == "miss"


async def test_an_answer_that_is_too_long_passes_and_is_not_kept() -> None:
    """Its client gets all of it."""
    service = Service(CacheConfig(answer_bytes_max=1024))
    long = b'{"choices":[],"x":"' + b"y" * 4000 + b'"}'
    pieces = [long[n : n + 500] for n in range(0, len(long), 500)]
    async with service.client:
        first = await service.ask(answer=FakeAnswer(pieces))
        assert first.content == long
        assert result(await service.ask(answer=FakeAnswer([long]))) == "miss"


class SlowTier(FakeTier):
    """A tier that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    def exchange(self, request, deadlines):  # type: ignore[no-untyped-def]
        return _Slow(super().exchange(request, deadlines), self.may_answer)


class _Slow:
    def __init__(self, exchange, may_answer: asyncio.Event) -> None:  # type: ignore[no-untyped-def]
        self._exchange = exchange
        self._may_answer = may_answer

    async def __aenter__(self):  # type: ignore[no-untyped-def]
        answer = await self._exchange.__aenter__()
        try:
            await self._may_answer.wait()
        except BaseException:
            await self._exchange.__aexit__(None, None, None)
            raise
        return answer

    async def __aexit__(self, *error: object) -> None:
        await self._exchange.__aexit__(*error)


async def share(
    service: Service, calls: int
) -> tuple[SlowTier, list[asyncio.Task[httpx.Response]]]:
    """Identical calls in flight on a tier that has not answered yet."""
    tier = SlowTier()
    tier.answer = FakeAnswer([WHOLE])
    service.fast = tier
    service.pipeline_tiers["fast"] = tier
    tasks = [
        asyncio.ensure_future(service.client.post("/v1/chat/completions", json=HELLO))
        for _ in range(calls)
    ]
    while not tier.requests:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    return tier, tasks


async def test_identical_calls_in_flight_share_one_generation(service: Service) -> None:
    """A hundred clients that ask the same at once cost one generation."""
    tier, tasks = await share(service, 10)
    tier.may_answer.set()
    responses = await asyncio.gather(*tasks)
    assert sorted(map(str, map(result, responses))) == ["miss", *["shared"] * 9]
    assert {response.content for response in responses} == {WHOLE}
    assert len(tier.requests) == 1


async def test_a_client_that_leaves_takes_no_other_client_with_it(service: Service) -> None:
    """The generation of the first call goes on for the second."""
    tier, (first, second) = await share(service, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    tier.may_answer.set()
    assert (await second).content == WHOLE
    assert len(tier.requests) == 1
    assert tier.open_exchanges == 0


async def test_the_last_client_to_leave_ends_the_generation(service: Service) -> None:
    """No engine works for nobody."""
    tier, tasks = await share(service, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tier.open_exchanges == 0


async def test_a_failure_of_the_first_call_is_not_shared(service: Service) -> None:
    """Its cause may be the first call's own deadline, so the next call tries for itself."""
    service.fast.answer = TierUnavailable(retry_after_s=1)
    refused = await service.client.post("/v1/chat/completions", json=HELLO)
    assert refused.status_code == 503
    assert result(await service.ask()) == "miss"
