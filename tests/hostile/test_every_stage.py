"""Clients that leave at any stage of their calls: nothing of the call stays behind.

The gateway, the pipeline, the tiers' clients, the doors of the replicas and the recorder are real.
The engines and the limiter wait until the test lets them go on. Ray is left out: it tells the
gateway that a client has gone, cancels the call's task, or both.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from serve_app.config.hedging import HedgingConfig
from serve_app.config.runtime import LeaseConfig, RuntimeConfig
from serve_app.core.call import Call, Record, Route
from serve_app.core.caller import Caller
from serve_app.core.limit_use import LimitUse
from serve_app.gateway.app import build_gateway
from serve_app.leases.client import TierClient
from serve_app.observe.access_log import AccessLog
from serve_app.observe.metrics import CallMetrics
from serve_app.observe.recorder import CallRecorder
from serve_app.pipeline import Pipeline
from serve_app.replica.asgi import Message, Receive, Scope, Send
from serve_app.routing.scorer import HeuristicScorer
from serve_app.steps import Steps
from tests.fakes import FakeReadiness
from tests.gateway.conftest import TIERS
from tests.leases.replica import Replica, Replicas

T = TypeVar("T")

QUIET_S = 10.0
"""Far longer than a call needs to end."""
USAGE = b'{"prompt_tokens":1,"completion_tokens":1}'
LEASES = LeaseConfig(reuse_s=0.02)
HEDGING = HedgingConfig(samples_min=1, wait_s_min=0.005, wait_s_max=0.005, ratio_max=0.5)


class Engine(Replica):
    """Writes a token each time that the test lets it, and stops when the Router leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = orjson.loads((await receive())["body"])
        self.running += 1
        gone = asyncio.ensure_future(receive())
        answering = asyncio.ensure_future(self._answer(bool(body.get("stream")), send))
        try:
            await asyncio.wait([gone, answering], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.running -= 1
            for task in (gone, answering):
                task.cancel()

    async def _answer(self, stream: bool, send: Send) -> None:
        kind = b"text/event-stream" if stream else b"application/json"
        headers = [(b"content-type", kind)]
        if stream and self.status == 200:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.released.wait()
        if self.breaks:
            raise ConnectionError
        if not (stream and self.status == 200):
            status = {"type": "http.response.start", "status": self.status, "headers": headers}
            await send(status)
        for _ in range(3 if stream else 0):
            token = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
            await send({"type": "http.response.body", "body": token, "more_body": True})
            await self.released.wait()
        end = b'data: {"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' if stream else b'{"usage":%b}'
        await send({"type": "http.response.body", "body": end % USAGE})


class CountingReservation:
    """Counts how often it is settled."""

    def __init__(self) -> None:
        self.settled = 0

    def settle(self, record: Record) -> None:
        self.settled += 1


class GatedLimiter:
    """Reserves when the test lets it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.reservations: list[CountingReservation] = []

    def start(self) -> None:
        """There is nothing to start."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def describe(self, caller: Caller) -> list[LimitUse]:
        return []

    async def reserve(self, call: Call, record: Record, route: Route) -> CountingReservation:
        await self.open.wait()
        self.reservations.append(CountingReservation())
        return self.reservations[-1]


class Client:
    """One client's connection, as Serve shows it to the gateway."""

    def __init__(self, *, stream: bool, tier: str, bad: bool) -> None:
        body = orjson.dumps(
            {"model": tier, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        )
        self._left = [body[:10], body[10:] if not bad else b"]"]
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._may_write = asyncio.Event()
        self.got: list[Message] = []
        self.task: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        return await self._inbox.get()

    async def send(self, message: Message) -> None:
        await self._may_write.wait()
        self.got.append(message)

    def write(self) -> None:
        """Send the next part of the body."""
        if self._left:
            part = self._left.pop(0)
            more = bool(self._left)
            self._inbox.put_nowait({"type": "http.request", "body": part, "more_body": more})

    def read(self, *, on: bool) -> None:
        """Take what comes from now on, or let it pile up."""
        if on:
            self._may_write.set()
        else:
            self._may_write.clear()

    def leave(self, how: str) -> None:
        """Be gone, as Serve tells it."""
        if how != "cancelled":
            self._inbox.put_nowait({"type": "http.disconnect"})
        if how != "told" and self.task is not None:
            self.task.cancel()


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
    "client": ("127.0.0.1", 1),
}


class Calls(RuleBasedStateMachine):
    """Any number of clients in any order of steps."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._all: list[Client] = []
        self._settled: Counter[int] = Counter()
        self._records: list[Record] = []
        self._run(self._start())

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(step)

    async def _start(self) -> None:
        self.engines = {"fast": [Engine(), Engine()], "strong": [Engine()]}
        self.tiers: dict[str, TierClient] = {}
        for name, engines in self.engines.items():
            ray = Replicas()
            for engine in engines:
                await engine.start()
                ray.replicas.append(engine)
            self.tiers[name] = TierClient(name, ray, LEASES)
            self.tiers[name].configure(LEASES, hedging=HEDGING)
        self.limiter = GatedLimiter()
        self.pipeline = Pipeline(
            TIERS, self.tiers, HeuristicScorer(), RuntimeConfig(), None, Steps(limiter=self.limiter)
        )
        self.recorder = CallRecorder(
            CallMetrics(), AccessLog(Path("/dev/null")), {}, settle=self._settle
        )
        self.app = build_gateway(TIERS, self.pipeline, self.recorder, FakeReadiness())

    def _settle(self, record: Record) -> None:
        self._records.append(record)  # It stays alive, so its id stays its own.
        self._settled[id(record)] += 1
        self.pipeline.settle(record)

    async def _turn(self) -> None:
        await asyncio.sleep(0.002)

    @rule(
        target=clients,
        stream=st.booleans(),
        tier=st.sampled_from(["fast", "strong", "auto"]),
        bad=st.integers(0, 9).map(lambda n: n == 0),
        parts=st.sampled_from([0, 1, 2, 2, 2]),
        reads=st.sampled_from([True, True, False]),
    )
    def connect(self, stream: bool, tier: str, bad: bool, parts: int, reads: bool) -> Client:
        """A client has sent its head, and perhaps some of its body."""
        client = Client(stream=stream, tier=tier, bad=bad)
        for _ in range(parts):
            client.write()
        client.read(on=reads)

        async def begin() -> None:
            client.task = asyncio.ensure_future(self.app(SCOPE, client.receive, client.send))
            await self._turn()

        self._all.append(client)
        self._run(begin())
        return client

    @rule(client=clients)
    def write(self, client: Client) -> None:
        """The next part of its body."""
        client.write()
        self._run(self._turn())

    @rule(client=clients, on=st.booleans())
    def read(self, client: Client, on: bool) -> None:
        """It reads on, or stops reading."""
        client.read(on=on)
        self._run(self._turn())

    @rule(client=clients, how=st.sampled_from(["told", "cancelled", "both"]), at_once=st.booleans())
    def leave(self, client: Client, how: str, at_once: bool) -> None:
        """It goes, perhaps in the same turn as something else."""
        client.leave(how)
        if not at_once:
            self._run(self._turn())

    @rule(tier=st.sampled_from(["fast", "strong"]), number=st.integers(0, 1), on=st.booleans())
    def hold_engine(self, tier: str, number: int, on: bool) -> None:
        """An engine stops to write, or goes on."""
        engine = self.engines[tier][number % len(self.engines[tier])]
        if on:
            engine.released.set()
        else:
            engine.released.clear()
        self._run(self._turn())

    @rule(
        tier=st.sampled_from(["fast", "strong"]),
        number=st.integers(0, 1),
        fault=st.sampled_from(["none", "none", "breaks", "fails"]),
    )
    def break_engine(self, tier: str, number: int, fault: str) -> None:
        """An engine fails, or is well again."""
        engine = self.engines[tier][number % len(self.engines[tier])]
        engine.breaks, engine.status = fault == "breaks", 500 if fault == "fails" else 200

    @rule(on=st.booleans())
    def hold_limiter(self, on: bool) -> None:
        """The counters answer, or do not."""
        if on:
            self.limiter.open.set()
        else:
            self.limiter.open.clear()
        self._run(self._turn())

    @invariant()
    def no_call_is_settled_twice(self) -> None:
        """At any time."""
        assert all(count == 1 for count in self._settled.values())
        assert all(one.settled <= 1 for one in self.limiter.reservations)

    def teardown(self) -> None:
        """All clients leave; then nothing is held."""
        try:
            self._run(self._end())
        finally:
            self._loop.close()

    async def _end(self) -> None:
        for client in self._all:
            client.leave("both")
        tasks = [client.task for client in self._all if client.task is not None]
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, QUIET_S)
        try:
            async with asyncio.timeout(QUIET_S):
                while self._held():
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(self._held()) from None
        assert len(self._settled) == len(self._all)
        assert all(count == 1 for count in self._settled.values())
        assert all(one.settled == 1 for one in self.limiter.reservations)
        for tier in self.tiers.values():
            tier.close()
        await self.recorder.close()
        engines = [engine for engines in self.engines.values() for engine in engines]
        await asyncio.gather(*(engine.stop() for engine in engines))

    def _held(self) -> dict[str, int]:
        """What is still held, by name; nothing of it once all clients have gone."""
        engines = [engine for engines in self.engines.values() for engine in engines]
        held = {
            "calls": self.pipeline.in_flight,
            "leases": sum(tier.open_leases for tier in self.tiers.values()),
            "ending": sum(len(tier._ending) for tier in self.tiers.values()),
            "waiting": sum(tier.waiting for tier in self.tiers.values()),
            "exchanges": sum(engine.leases.exchanges for engine in engines),
            "places": sum(len(engine.leases) for engine in engines),
            "generations": sum(engine.running for engine in engines),
            "unsettled": len(self._all) - len(self._settled),
        }
        return {name: count for name, count in held.items() if count}


Calls.TestCase.settings = settings(stateful_step_count=25, deadline=None)
TestCalls = Calls.TestCase
