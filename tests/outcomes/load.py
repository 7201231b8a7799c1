"""Clients that ask all the time while a fault strikes, and note everything that comes back."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.outcomes.account import Account
from tests.outcomes.outcome import Ending, Outcome, Seen, expected_text, judge
from tests.routing.prompts import HARD_EN

CLIENTS = 16
PATIENCE_S = 150.0
"""Longer than `first_byte_s`, `lease_s` and `gap_s` of configs/local.yaml."""
CONNECT_S = 30.0
"""On a busy machine the clients themselves stand still for seconds, and then a short limit would
expire although there is a connection."""
PAUSE_S = 0.2
"""After a call that was refused or failed."""
MODELS = ("auto", "auto", "auto", "fast", "strong")
WHOLE_RATIO = 0.2
LEAVING_RATIO = 0.1
LEAVES_AFTER = 40
"""The last event after which a client leaves; the answer has more."""


@dataclass(frozen=True)
class Ask:
    """One call; `leaves_after` events its client closes the connection."""

    number: int
    model: str
    prompt: str
    stream: bool
    leaves_after: int | None = None

    def body(self) -> dict[str, Any]:
        """The request; its grammar lets the engine say this call's own text only."""
        options = {"stream_options": {"include_usage": True}} if self.stream else {}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": f"{self.prompt} ({self.number})"}],
            "structured_outputs": {"choice": [expected_text(self.number)]},
            "max_tokens": 128,
            "temperature": 0,
            "stream": self.stream,
            **options,
        }


def draw_ask(number: int, rng: random.Random) -> Ask:
    """A call of the mix: `auto` and named tiers, easy and hard, streams and whole answers."""
    stream = rng.random() >= WHOLE_RATIO
    leaves = stream and rng.random() < LEAVING_RATIO
    return Ask(
        number,
        rng.choice(MODELS),
        rng.choice(("Hello", HARD_EN[0])),
        stream,
        rng.randint(1, LEAVES_AFTER) if leaves else None,
    )


@dataclass
class _Noted:
    """What has come back so far."""

    status: int | None = None
    request_id: str | None = None
    tier: str | None = None
    error: str = ""
    body: bytearray = field(default_factory=bytearray)


class Load:
    """`clients` that ask again as soon as they have their answer, in a thread of their own."""

    def __init__(
        self,
        base_url: str,
        *,
        clients: int = CLIENTS,
        seed: int = 1,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._patience_s = patience_s
        self._url = f"{base_url}/v1/chat/completions"
        self._clients = clients
        self._rng = random.Random(seed)
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._failure: BaseException | None = None
        self.begun: list[int] = []
        self.seen: list[Seen] = []

    def start(self) -> None:
        """Let the clients begin."""
        self._thread.start()

    def stop(self) -> None:
        """Wait for the calls in flight."""
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def answered(self) -> int:
        """Complete answers so far."""
        return sum(judge(each) is Outcome.ANSWERED for each in tuple(self.seen))

    def wait_answers(self, more: int, *, timeout_s: float = 60) -> None:
        """Until so many more calls have been answered."""
        wanted = self.answered() + more
        until_s = time.monotonic() + timeout_s
        while self.answered() < wanted:
            if time.monotonic() > until_s or not self._thread.is_alive():
                raise TimeoutError(f"fewer than {more} answers within {timeout_s:g} s")
            time.sleep(0.05)

    def account(self, fault_s: float) -> Account:
        """All calls, after `stop`."""
        return Account(self.begun, self.seen, fault_s)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._clients):
                    group.create_task(self._keep_asking())
        except BaseException as error:  # noqa: BLE001  # `stop` raises it in the test's thread
            self._failure = error

    async def _keep_asking(self) -> None:
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        async with httpx.AsyncClient(timeout=timeout) as client:
            while not self._stopping.is_set():
                ask = draw_ask(next(self._numbers), self._rng)
                self.begun.append(ask.number)
                seen = await self._ask(client, ask)
                self.seen.append(seen)
                if judge(seen) not in (Outcome.ANSWERED, Outcome.CANCELLED):
                    await asyncio.sleep(PAUSE_S)

    async def _ask(self, client: httpx.AsyncClient, ask: Ask) -> Seen:
        started_s, noted = time.monotonic(), _Noted()
        ending = await self._ending(client, ask, noted)
        return Seen(
            ask.number,
            ask.stream,
            ending,
            started_s,
            time.monotonic(),
            noted.status,
            noted.request_id,
            bytes(noted.body),
            ask.model,
            noted.tier,
            noted.error,
        )

    async def _ending(self, client: httpx.AsyncClient, ask: Ask, noted: _Noted) -> Ending:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._exchange(client, ask, noted)
        except TimeoutError:
            return Ending.SILENT
        except httpx.TransportError as error:
            noted.error = repr(error)
            connecting = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return Ending.UNREACHABLE if connecting else Ending.BROKEN

    async def _exchange(self, client: httpx.AsyncClient, ask: Ask, noted: _Noted) -> Ending:
        headers = {"x-request-id": f"call-{ask.number}"}
        async with client.stream("POST", self._url, json=ask.body(), headers=headers) as response:
            noted.status = response.status_code
            noted.request_id = response.headers.get("x-request-id")
            noted.tier = response.headers.get("x-route-tier")
            async for chunk in response.aiter_raw():
                noted.body += chunk
                if ask.leaves_after and noted.body.count(b"\n\n") >= ask.leaves_after:
                    return Ending.LEFT
        return Ending.COMPLETE


@contextmanager
def running_load(base_url: str, *, clients: int = CLIENTS, seed: int = 1) -> Iterator[Load]:
    """Clients that ask for as long as the block runs."""
    load = Load(base_url, clients=clients, seed=seed)
    load.start()
    try:
        yield load
    finally:
        load.stop()
