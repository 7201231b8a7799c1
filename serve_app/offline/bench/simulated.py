"""A tier without a model: replicas that lease places as a TierServer does, before an engine that
only waits.

Ray, the Router and the lease path are the real ones. No replica imports vLLM, so that a machine
holds dozens of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve import Application

from serve_app.config.tiers import TierConfig
from serve_app.deploy.plan import deployment_name, plan_deployment
from serve_app.leases.board import Seat, render_seat
from serve_app.leases.http1 import Address
from serve_app.replica.asgi import Message, Receive, Scope, Send
from serve_app.replica.draft_gate import DraftApp
from serve_app.replica.engine_http import EngineHTTPServer, LeasedApp
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.state_feed import StateFeed, read_load

LOOPBACK = "127.0.0.1"
COUNTS_PATH = "/counts"
"""On a replica's direct port: what the replica has done so far."""

_DELTA = b'data: {"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":"length"}]}\n\n'
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n'
_END = b"data: [DONE]\n\n"
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """The arguments of a simulated replica: seconds between two tokens, and a directory."""

    pace_s: float
    directory: str

    def as_engine(self) -> dict[str, Any]:
        """As the `engine` of a tier, the part of a config that only an engine reads."""
        return asdict(self)


@dataclass(slots=True)
class Counts:
    """What one replica has done: places that Ray asked it for, and calls that it answered."""

    leases: int = 0
    calls: int = 0


class SimulatedEngine:
    """An engine's app that writes the first token at once and each further one after a pause."""

    def __init__(self, pace_s: float, counts: Counts) -> None:
        self._pace_s = pace_s
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == COUNTS_PATH:
            await _send_whole(send, orjson.dumps(self._counts))
            return
        body = await _read(receive)
        call = orjson.loads(body)
        tokens = int(call.get("max_tokens") or 1)
        self._counts.calls += 1
        if call.get("stream"):
            usage = bool((call.get("stream_options") or {}).get("include_usage"))
            await self._stream(send, len(body) // _BYTES_PER_TOKEN, tokens, usage=usage)
        else:
            await asyncio.sleep((tokens - 1) * self._pace_s)
            await _send_whole(send, _render_whole(len(body) // _BYTES_PER_TOKEN, tokens))

    async def _stream(self, send: Send, prompt: int, tokens: int, *, usage: bool) -> None:
        await _send_head(send, b"text/event-stream")
        for _ in range(tokens - 1):
            await send({"type": "http.response.body", "body": _DELTA, "more_body": True})
            await asyncio.sleep(self._pace_s)
        last = _LAST + (_USAGE % (prompt, tokens) if usage else b"") + _END
        await send({"type": "http.response.body", "body": last})


class SimulatedReplica:
    """What Ray and the Routers see of a `TierServer`, without an engine's processes and imports.

    A second port answers without leases: the engine itself, which the service is compared with.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, options: SimulationOptions, *, tls: bool = False
    ) -> None:
        self._counts = Counts()
        self._leases = LeaseTable()
        engine = SimulatedEngine(options.pace_s, self._counts)
        self._feed = StateFeed(partial(read_load, self._leases, None))
        leased = LeasedApp(DraftApp(engine), self._leases, feed=self._feed)
        self._http = EngineHTTPServer(leased, ray.util.get_node_ip_address(), tls=tls)
        self._direct = EngineHTTPServer(engine, LOOPBACK)
        await self._http.wait_started()
        await self._direct.wait_started()
        port = str(self._direct.address[1])
        (Path(options.directory) / str(os.getpid())).write_text(port, encoding="ascii")

    async def lease(self, lease_id: str, secret: bytes) -> AsyncIterator[Address]:
        """As `TierServer.lease`."""
        self._counts.leases += 1
        with self._leases.open(lease_id, secret) as lease:
            yield self._http.address
            await lease.wait_ended()

    async def record_replica_metadata(self) -> dict[str, Any]:
        """As `TierServer.record_replica_metadata`."""
        return render_seat(Seat(self._http.address, self._feed.token))

    async def __del__(self) -> None:
        self._feed.close()
        await self._http.close()
        await self._direct.close()


def build_simulated(tier: TierConfig) -> Application:
    """A tier as a node of the composition graph, with the Serve options that a real one has."""
    options = SimulationOptions(**tier.engine)  # type: ignore[arg-type]  # `as_engine` made it
    planned = {**plan_deployment(tier), "name": deployment_name(tier)}
    return serve.deployment(**planned)(SimulatedReplica).bind(options, tls=tier.tls)


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message: Message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _render_whole(prompt: int, tokens: int) -> bytes:
    message = {"role": "assistant", "content": " word" * tokens}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
    return orjson.dumps({"choices": [choice], "usage": usage})


async def _send_whole(send: Send, body: bytes) -> None:
    await _send_head(send, b"application/json", len(body))
    await send({"type": "http.response.body", "body": body})


async def _send_head(send: Send, kind: bytes, length: int | None = None) -> None:
    headers = [(b"content-type", kind)]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
