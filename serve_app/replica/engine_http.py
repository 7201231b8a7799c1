"""The replica's HTTP side: the engine's own app, on a port that only lease holders can use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import uvicorn

from serve_app.core.call import Endpoint
from serve_app.core.headers import SPARE_HEADER
from serve_app.core.peer_watch import UNREAD_S_MAX, watch_peer
from serve_app.core.prefix import PREFIX_KEYS_HEADER, PrefixKeys, parse_prefix_keys
from serve_app.leases.answers import LEASE_USAGE_HEADER, Refusal, render_usage
from serve_app.leases.client import LEASE_HEADER, LEASE_PATH, LEASE_REFUSED_HEADER, LOAD_PATH
from serve_app.leases.draft_report import DRAFT_TOKENS_HEADER
from serve_app.leases.http1 import IDLE_S_MAX, Address
from serve_app.leases.load import LOAD_HEADER, EngineLoad
from serve_app.leases.signature import parse_lease
from serve_app.leases.state_stream import STATE_PATH
from serve_app.replica.asgi import ASGIApp, Message, Receive, Scope, Send
from serve_app.replica.engine_stats import EngineStats
from serve_app.replica.lease_table import HeldLease, LeaseTable
from serve_app.replica.meter import METER, Meter
from serve_app.replica.prefills import PrefillWatch
from serve_app.replica.spare_calls import SpareCalls
from serve_app.replica.state_feed import StateFeed

logger = logging.getLogger("ray.serve")


PATHS = frozenset(Endpoint)
"""The paths that Routers forward. The engine's app also has paths that stop, change or empty it."""

SETTLE_S = 0.5
"""How long the end of a lease waits for an exchange that is being cut off; Routers wait longer."""

LOAD_KEPT_S = 0.05
"""How long answers carry the same load header; the load changes with each step of the engine."""


def never() -> Refusal | None:
    """Reject no exchange."""
    return None


class LeasedApp:
    """The engine's app behind a door that lets only requests of live leases pass."""

    def __init__(
        self,
        app: ASGIApp,
        leases: LeaseTable,
        stats: EngineStats | None = None,
        *,
        refusal: Callable[[], Refusal | None] = never,
        prefills: PrefillWatch | None = None,
        feed: StateFeed | None = None,
        spare: SpareCalls | None = None,
    ) -> None:
        """`refusal` says why no exchange can begin now, None where it can. `prefills` and `spare`
        are told of each exchange, and `feed` answers those who read the replica's state."""
        self._app = app
        self._leases = leases
        self._stats = stats
        self._refusal = refusal
        self._prefills = prefills or PrefillWatch()
        self._feed = feed
        self._spare = spare or SpareCalls()
        self._load: tuple[bytes, bytes] = (LOAD_HEADER, b"")
        self._load_until = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        own = path in (LEASE_PATH, LOAD_PATH)
        if path == STATE_PATH and scope["method"] == "GET" and self._feed is not None:
            await self._feed.answer(scope, receive, send)
            return
        if scope["method"] != "POST" or scope["query_string"] or not (own or path in PATHS):
            await _answer(send, 404, [])
            return
        lease = self._find(scope)
        refusal = self._refusal()
        if lease is None:
            await self._refuse(send, Refusal.LEASE)
        elif path == LEASE_PATH:
            await self._end(lease, send, refusal)
        elif refusal is not None:
            if refusal is Refusal.DRAINING and not lease.exchanges:
                # Ray waits for the lease to end, and the Router gives it to no further call.
                lease.end()
            await self._refuse(send, refusal)
        elif path == LOAD_PATH:
            await _answer(send, 200, [self._load_header()])
        else:
            await self._exchange(lease, scope, receive, send)

    async def _exchange(self, lease: HeldLease, scope: Scope, receive: Receive, send: Send) -> None:
        prefill = self._prefills.begin(find_keys(scope))
        meter = Meter(prefill.add)
        answer = AnswerMessages(receive, send, self._recent_load_header, lease.complete_exchange)
        token = METER.set(meter)
        spare = is_spare(scope)
        lease.begin_exchange(meter, spare=spare)
        self._spare.begin(meter, spare=spare)
        try:
            await self._app(scope, answer.receive, answer.send)
        finally:
            self._spare.end(meter, whole=answer.whole)
            prefill.end(meter.read().completion_tokens or 0)
            lease.end_exchange()
            METER.reset(token)

    async def _end(self, lease: HeldLease, send: Send, refusal: Refusal | None) -> None:
        """End the lease, and report the tokens of an exchange that was cut off.

        With a dead engine the lease lives until it expires: Ray sends fewer calls here while it
        counts the place as taken.
        """
        if refusal is not Refusal.ENGINE:
            lease.end()
        headers = [] if refusal is Refusal.ENGINE else [self._load_header()]
        if (usage := await lease.read_cut_off(SETTLE_S)) is not None:
            headers.append((LEASE_USAGE_HEADER, render_usage(usage)))
        await _answer(send, 200, headers)

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        headers = [(LEASE_REFUSED_HEADER, refusal.value)]
        if refusal is Refusal.DRAINING:
            headers.append(self._load_header())
        await _answer(send, 403, headers)

    def _find(self, scope: Scope) -> HeldLease | None:
        """The live lease that the request was sent under and signed for."""
        held, draft_tokens, body_bytes = b"", b"", b"0"
        for name, value in scope["headers"]:
            if name == LEASE_HEADER:
                held = value
            elif name == DRAFT_TOKENS_HEADER:
                draft_tokens = value
            elif name == b"content-length":
                body_bytes = value
        lease_id, counter, mac = parse_lease(held)
        lease = self._leases.find(lease_id)
        path = scope["path"].encode()
        if lease is None or not lease.verifier.accepts(
            counter, mac, path, draft_tokens, body_bytes
        ):
            return None
        return lease

    def _load_header(self) -> tuple[bytes, bytes]:
        """The engine's own numbers, or the calls of this replica if the engine has none."""
        load = None if self._stats is None else self._stats.read()
        return LOAD_HEADER, (load or EngineLoad(self._leases.exchanges, 0, None)).render()

    def _recent_load_header(self) -> tuple[bytes, bytes]:
        now = time.monotonic()
        if now >= self._load_until:
            self._load, self._load_until = self._load_header(), now + LOAD_KEPT_S
        return self._load


def find_keys(scope: Scope) -> PrefixKeys | None:
    """The keys of the prompt, if the Router has sent any."""
    for name, value in scope["headers"]:
        if name == PREFIX_KEYS_HEADER:
            return parse_prefix_keys(value)
    return None


def is_spare(scope: Scope) -> bool:
    """Whether the call is of a line that shall add no replicas."""
    return any(name == SPARE_HEADER for name, _ in scope["headers"])


class AnswerMessages:
    """The messages of one answer of the engine: adds the load to its head, and notes its end.

    After a disconnect the answer counts as incomplete: for a call that is not streamed, vLLM then
    stops the engine and still sends an empty answer.
    """

    __slots__ = ("_left", "_load", "_receive", "_send", "_when_whole", "whole")

    def __init__(
        self,
        receive: Receive,
        send: Send,
        load: Callable[[], tuple[bytes, bytes]],
        when_whole: Callable[[], None],
    ) -> None:
        self._receive = receive
        self._send = send
        self._load = load
        self._when_whole = when_whole
        self._left = False
        self.whole = False
        """Whether the whole answer was sent."""

    async def receive(self) -> Message:
        """The next message of the Router."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        """Pass the next message on."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), self._load()]}
            await self._send(message)
            return
        await self._send(message)
        if not (self._left or message.get("more_body", False)):
            self.whole = True
            self._when_whole()


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


PROBES: Mapping[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]},
    Endpoint.COMPLETIONS: {"prompt": "Hello", "max_tokens": 1},
    Endpoint.EMBEDDINGS: {"input": "Hello"},
    Endpoint.RERANK: {"query": "Hello", "documents": ["Hello"]},
}
"""The least that an engine can be asked on each path."""


async def warm_up(app: ASGIApp, model: str, probes: Endpoint = Endpoint.COMPLETIONS) -> None:
    """Answer one chat before Ray sends calls: templates and tokenizers take seconds at first use.

    A model that cannot chat answers with an error, which does no harm. A model that generates
    nothing answers what `probes` asks.
    """
    endpoint = Endpoint.CHAT if probes.generates else probes
    started = time.monotonic()
    status = await _post(app, endpoint, {"model": model, **PROBES[endpoint]})
    duration_s = time.monotonic() - started
    logger.info("warm-up answered with %d after %.1f s", status, duration_s)


async def probe(app: ASGIApp, model: str, endpoint: Endpoint) -> None:
    """Let the engine compute one token, one vector or one score, as for a call of a client."""
    status = await _post(app, endpoint, {"model": model, **PROBES[endpoint]})
    if status != 200:
        logger.warning("an idle engine answered its probe with %d", status)


async def _post(app: ASGIApp, endpoint: Endpoint, body: dict[str, Any]) -> int:
    """The status with which the engine's app answers a call of the replica itself."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        response = await client.post(endpoint.value, json=body, timeout=None)
    return response.status_code


def _make_certificate() -> tuple[ssl.SSLContext, bytes]:
    # Imported here, because cryptography is of the extra `access`, and few configs need it.
    from serve_app.replica.own_certificate import OwnCertificate

    own = OwnCertificate()
    return own.context, own.digest


class EngineHTTPServer:
    """The HTTP server of one engine app, on a free port of the node's own address."""

    def __init__(self, app: ASGIApp, host: str, *, tls: bool = False) -> None:
        """`tls`: with a certificate of its own, whose digest is part of the address."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind((host, 0))
        watch_peer(self._socket, UNREAD_S_MAX)
        port: int = self._socket.getsockname()[1]
        self.address: Address = (host, port)
        context = None
        if tls:
            context, digest = _make_certificate()
            self.address = (host, port, digest)
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            backlog=2048,
            # Longer than Routers keep idle connections, so that the server never closes one in the
            # moment in which a Router sends on it.
            timeout_keep_alive=int(4 * IDLE_S_MAX),
        )
        config.load()
        config.ssl = context  # uvicorn would read the certificate from files.
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    @property
    def running(self) -> bool:
        """Whether the server serves, or is about to."""
        return not self._task.done()

    async def wait_started(self) -> None:
        """Return when the port is open.

        Raises:
            RuntimeError: the server ended before it opened the port.
        """
        while not self._server.started:
            self.check()
            await asyncio.sleep(0.01)

    def check(self) -> None:
        """Raise RuntimeError if the server no longer runs."""
        if not self.running:
            raise RuntimeError("the engine's HTTP server has stopped")

    async def close(self) -> None:
        """Close the port and every connection."""
        self._server.should_exit = self._server.force_exit = True
        with contextlib.suppress(Exception):
            await self._task
        self._socket.close()
