"""The door before an engine's app, and its first call."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from serve_app.core.call import Endpoint, Usage
from serve_app.leases.answers import Refusal, parse_usage, render_usage
from serve_app.leases.signature import LeaseSigner
from serve_app.replica.asgi import Message, Receive, Scope, Send
from serve_app.replica.engine_http import EngineHTTPServer, LeasedApp, probe, warm_up
from serve_app.replica.engine_stats import EngineStats
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.meter import METER, Meter
from tests.leases.replica import Stats


class Engine:
    """An app that keeps what it was asked, and answers or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.bodies: list[bytes] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        message: Message = await receive()
        self.bodies.append(message.get("body", b""))
        if self.fails:
            raise RuntimeError("no such model")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


PATH = "/v1/chat/completions"
SECRET = b"0123456789abcdef"


def client(app: LeasedApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine")


class Holder:
    """A Router that holds a lease, and what it sends to the door."""

    def __init__(self, http: httpx.AsyncClient, secret: bytes = SECRET) -> None:
        self.http = http
        self.signer = LeaseSigner("a", secret)

    async def post(self, path: str = PATH, body: bytes = b"{}", **changed: str) -> httpx.Response:
        headers = {"x-lease-id": self.signer.sign(path.encode(), b"", len(body)).decode()}
        return await self.http.post(path, content=body, headers={**headers, **changed})


async def test_only_live_leases_reach_the_engine() -> None:
    """Nothing gets through without a lease, under a wrong one, or after it has ended."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        router = Holder(http)
        with leases.open("a", SECRET):
            assert (await http.post(PATH)).status_code == 403
            assert (await http.post(PATH, headers={"x-lease-id": "b"})).status_code == 403
            assert (await router.post()).text == "hello"
        answer = await router.post()
    assert answer.status_code == 403
    assert answer.headers["x-lease-refused"] == "1"
    assert len(engine.bodies) == 1


async def test_a_lease_that_was_seen_opens_nothing() -> None:
    """Neither its id nor a request of its Router's, sent once more or changed in what is signed."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        router, thief = Holder(http), Holder(http, b"guessed")
        with leases.open("a", SECRET):
            sent = (await router.post()).request.headers["x-lease-id"]
            fresh = router.signer.sign(PATH.encode(), b"", 2).decode()
            attempts = [
                await http.post(PATH, content=b"{}", headers={"x-lease-id": "a"}),
                await http.post(PATH, content=b"{}", headers={"x-lease-id": "a  "}),
                await http.post(PATH, content=b"{}", headers={"x-lease-id": sent}),
                await http.post(PATH, content=b"{}  ", headers={"x-lease-id": fresh}),
                await http.post("/tokenize", content=b"{}", headers={"x-lease-id": fresh}),
                await http.post("/lease", content=b"{}", headers={"x-lease-id": fresh}),
                await router.post(**{"x-draft-tokens": "8"}),
                await thief.post(),
            ]
    assert [each.headers["x-lease-refused"] for each in attempts] == ["1"] * len(attempts)
    assert len(engine.bodies) == 1


@pytest.mark.parametrize(
    "path", ["/pause", "/sleep", "/v1/load_lora_adapter", "/metrics", "/", f"{PATH}/", "/v1//lease"]
)
async def test_a_lease_opens_only_what_routers_forward(path: str) -> None:
    """The engine's app has more, which can stop the engine or change its weights."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        with leases.open("a", SECRET):
            assert (await Holder(http).post(path)).status_code == 404
            assert (await http.get(PATH)).status_code == 404
            assert (await Holder(http).post(PATH + "?x=1")).status_code == 404
    assert engine.bodies == []


async def test_every_endpoint_passes_the_door() -> None:
    """What Routers forward is the list of endpoints, and nothing is kept twice."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        router = Holder(http)
        with leases.open("a", SECRET):
            for endpoint in Endpoint:
                assert (await router.post(endpoint.value)).status_code == 200
    assert len(engine.bodies) == len(Endpoint)


async def test_a_lease_is_ended_over_http() -> None:
    """Whoever holds a lease can end it, and the engine does not see that request."""
    engine, leases = Engine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        with leases.open("a", SECRET) as lease:
            assert (await Holder(http).post("/lease")).status_code == 200
            async with asyncio.timeout(1):
                await lease.wait_ended()
    assert engine.bodies == []


async def test_a_replica_tells_its_load_to_lease_holders() -> None:
    """The engine's own numbers, else the calls that are here; the engine is not asked."""
    engine, leases, stats = Engine(), LeaseTable(), EngineStats()
    async with client(LeasedApp(engine, leases, stats)) as http:
        router = Holder(http)
        assert (await http.post("/serve-app/load")).status_code == 403
        with leases.open("a", SECRET):
            assert await told(router, "/serve-app/load") == "0 0 -"
            stats.record(Stats(3, 2, 0.125), None)
            assert await told(router, "/serve-app/load") == "3 2 0.1250"
            assert await told(router, "/lease") == "3 2 0.1250"
    assert engine.bodies == []


async def test_the_load_is_on_the_head_of_every_answer() -> None:
    """So Routers poll only replicas that are silent."""
    engine, leases, stats = Engine(), LeaseTable(), EngineStats()
    stats.record(Stats(3, 2, 0.125), None)
    async with client(LeasedApp(engine, leases, stats)) as http:
        with leases.open("a", SECRET):
            assert await told(Holder(http), PATH) == "3 2 0.1250"


async def told(router: Holder, path: str) -> str:
    return (await router.post(path)).headers["x-engine-load"]


async def test_a_dead_engine_is_said_at_once() -> None:
    """Calls and questions for the load are refused; an ended lease goes on until it expires.

    So Ray counts its place as taken meanwhile, and sends fewer calls to an engine that has none.
    """
    engine, leases = Engine(), LeaseTable()
    door = LeasedApp(engine, leases, refusal=lambda: Refusal.ENGINE)
    async with client(door) as http:
        router = Holder(http)
        with leases.open("a", SECRET) as lease:
            for path in (PATH, "/serve-app/load"):
                answer = await router.post(path)
                assert answer.status_code == 403
                assert answer.headers["x-lease-refused"] == "engine"
                assert "x-engine-load" not in answer.headers
            assert (await router.post("/lease")).status_code == 200
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await asyncio.shield(lease.wait_ended())
    assert engine.bodies == []


async def test_a_draining_replica_begins_nothing_new() -> None:
    """What has begun goes on; the place of a call that is refused is free at once."""
    engine, leases, state = HeldEngine(), LeaseTable(), State()
    async with client(LeasedApp(engine, leases, refusal=lambda: state.refusal)) as http:
        with leases.open("a", SECRET) as lease:
            router = Holder(http)
            begun = asyncio.create_task(router.post())
            await engine.began.wait()
            state.refusal = Refusal.DRAINING
            assert (await router.post()).headers["x-lease-refused"] == "draining"
            assert not lease._ended.done()
            engine.released.set()
            assert (await begun).text == "hello"
            assert (await router.post()).headers["x-lease-refused"] == "draining"
            async with asyncio.timeout(1):
                await lease.wait_ended()


@dataclass
class State:
    """What the door is told of its replica."""

    refusal: Refusal | None = None


class HeldEngine(Engine):
    """An engine that has taken a prompt of 5 tokens, and writes 3 before it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.released = asyncio.Event(), asyncio.Event()
        self.sequence = Sequence()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        meter = METER.get()
        assert meter is not None
        meter.add(self.sequence)
        self.sequence.detokenizer.tokens = 3
        self.began.set()
        await self.released.wait()
        await super().__call__(scope, receive, send)


class Detokenizer:
    tokens = 0

    def num_output_tokens(self) -> int:
        return self.tokens


class Sequence:
    """The state of one request as the engine keeps it."""

    def __init__(self, request_index: int = 0, prompt_len: int = 5) -> None:
        self.request_index = request_index
        self.prompt_len = prompt_len
        self.detokenizer: Any = Detokenizer()


async def test_a_call_that_was_cut_off_tells_what_it_took() -> None:
    """Also if its end is known before the disconnect; a complete answer tells it itself."""
    engine, leases = HeldEngine(), LeaseTable()
    async with client(LeasedApp(engine, leases)) as http:
        router = Holder(http)
        with leases.open("a", SECRET):
            left = asyncio.create_task(router.post())
            await engine.began.wait()
            left.cancel()
            with suppress(asyncio.CancelledError):
                await left
            assert (await router.post("/lease")).headers["x-lease-usage"] == "5 3"
        with leases.open("a", SECRET):
            router = Holder(http)
            running = asyncio.create_task(router.post())
            await asyncio.sleep(0)
            ended = asyncio.create_task(router.post("/lease"))
            await asyncio.sleep(0.02)
            engine.sequence.detokenizer.tokens = 4
            running.cancel()
            assert (await ended).headers["x-lease-usage"] == "5 4"
        engine.released.set()
        with leases.open("a", SECRET):
            router = Holder(http)
            assert (await router.post()).text == "hello"
            assert "x-lease-usage" not in (await router.post("/lease")).headers


async def test_an_answer_is_complete_before_its_app_has_ended() -> None:
    """The Router may end the lease while the engine's app still tidies up."""
    leases, tidied = LeaseTable(), asyncio.Event()

    async def tidying(scope: Scope, receive: Receive, send: Send) -> None:
        meter = METER.get()
        assert meter is not None
        meter.add(Sequence())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        await tidied.wait()

    async with client(LeasedApp(tidying, leases)) as http:
        router = Holder(http)
        with leases.open("a", SECRET):
            answered = asyncio.create_task(router.post())
            await asyncio.sleep(0.01)
            assert "x-lease-usage" not in (await router.post("/lease")).headers
            tidied.set()
            await answered


async def test_an_answer_after_the_disconnect_is_none() -> None:
    """vLLM cancels a call that is not streamed when its client leaves, and then answers `null`."""
    leases, signer, answers = LeaseTable(), LeaseSigner("a", SECRET), list[Message]()
    messages: list[Message] = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        answers.append(message)

    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        meter = METER.get()
        assert meter is not None
        meter.add(Sequence())
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"null"})

    with leases.open("a", SECRET) as lease:
        scope = {
            "method": "POST",
            "path": PATH,
            "query_string": b"",
            "headers": [(b"x-lease-id", signer.sign(PATH.encode(), b"", 0))],
        }
        await LeasedApp(cancelled, leases)(scope, receive, send)
        assert answers[-1]["body"] == b"null"
        assert await lease.read_cut_off(0) == Usage(5, 0)


def test_a_meter_adds_up_choices_and_prompts() -> None:
    """A prompt counts once, its choices each; what generates nothing has a prompt only."""
    meter = Meter()
    assert meter.read() == Usage(0, 0)
    for index, prompt_len, tokens in ((0, 5, 3), (1, 5, 4), (0, 7, 1)):
        sequence = Sequence(index, prompt_len)
        sequence.detokenizer.tokens = tokens
        meter.add(sequence)
    embedded = Sequence(0, 2)
    embedded.detokenizer = None
    meter.add(embedded)
    assert meter.read() == Usage(14, 8)


@pytest.mark.parametrize("value", [b"", b"1", b"a b", b"1 2 3"])
def test_a_usage_passes_from_door_to_router(value: bytes) -> None:
    """What is no usage is none."""
    assert parse_usage(render_usage(Usage(12, 34))) == Usage(12, 34)
    assert parse_usage(value) is None


async def test_the_first_call_is_made_before_any_client() -> None:
    """The warm-up asks the model for one token, and survives a model that cannot chat."""
    engine = Engine()
    await warm_up(engine, "org/model")
    assert b'"model":"org/model"' in engine.bodies[0]
    await warm_up(Engine(fails=True), "org/model")
    await warm_up(engine, "org/model", Endpoint.RERANK)
    assert orjson.loads(engine.bodies[1])["documents"] == ["Hello"]


async def test_an_idle_engine_is_asked_for_one_token_vector_or_score() -> None:
    """A refusal or an error of the engine's app does no harm."""
    engine = Engine()
    await probe(engine, "org/model", Endpoint.COMPLETIONS)
    await probe(engine, "org/model", Endpoint.EMBEDDINGS)
    await probe(engine, "org/model", Endpoint.RERANK)
    assert [orjson.loads(body) for body in engine.bodies] == [
        {"model": "org/model", "prompt": "Hello", "max_tokens": 1},
        {"model": "org/model", "input": "Hello"},
        {"model": "org/model", "query": "Hello", "documents": ["Hello"]},
    ]
    await probe(Engine(fails=True), "org/model", Endpoint.COMPLETIONS)


async def test_the_server_answers_on_a_free_port_until_it_is_closed() -> None:
    """A replica's port is open while it serves, and its death is noticed."""
    server = EngineHTTPServer(Engine(), "127.0.0.1")
    await server.wait_started()
    host, port = server.address
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://{host}:{port}/")).text == "hello"
    server.check()
    assert server.running
    await server.close()
    assert not server.running
    with pytest.raises(RuntimeError):
        server.check()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
