"""The counters that `serve-app bench limits` compares, each as one call that reserves and settles.

A call of ours asks three limits (requests and tokens a minute, calls at a time), and settles two
thirds of its tokens. The peer, the library `limits`, has neither tokens nor settlements: its call
is one hit of one limit of requests, which is less work.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path

import ray
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis

from serve_app.config.redis import RedisConfig
from serve_app.limits.limit import Charge, Counters, Limit, LimitAsk, Measure
from serve_app.limits.owner_actor import RayOwnerPort, find_owner
from serve_app.limits.redis_counters import RedisCounters, connect
from serve_app.limits.sliced_counters import SlicedCounters
from serve_app.limits.windows import LimitWindow

TENANTS = 20
AMOUNT = 1_000_000_000
TOKENS, USED = 1500, 1000
PLACE_S = 60.0
START_S = 20.0
DEADLINE_S = 10.0
"""Long, because a call that is late must count."""

Call = Callable[[int], Awaitable[None]]
"""One call of a caller: reserve, then settle."""


def peer_name() -> str:
    """The peer with its version."""
    return f"peer: limits {version('limits')}, Redis, moving window"


@contextmanager
def run_redis() -> Iterator[str]:
    """The URL of a Redis of its own, with the durability that docs/limits.md asks for.

    Raises:
        FileNotFoundError: `redis-server` is not installed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as directory:
        options = ["--bind", "127.0.0.1", "--dir", directory, "--save", "", "--appendonly", "yes"]
        command = ["redis-server", "--port", str(port), *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                _wait_for(port)
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def run_ray() -> Iterator[None]:
    """A Ray cluster of this process alone."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


@asynccontextmanager
async def over_redis(url: str) -> AsyncIterator[Call]:
    """Our counters in Redis, as two Routers use them."""
    routers = [
        RedisCounters(
            connect(RedisConfig(url=url), DEADLINE_S),
            deadline_s=DEADLINE_S,
            marker_s=600,
            place_s=PLACE_S,
        )
        for _ in range(2)
    ]
    async with _running(routers) as call:
        yield call


@asynccontextmanager
async def over_owner(directory: Path) -> AsyncIterator[Call]:
    """Our counters in one Ray actor, as two Routers use them."""
    place_ms = int(1000 * PLACE_S)
    actor = await asyncio.to_thread(find_owner, str(directory), place_ms)
    routers = [
        SlicedCounters(RayOwnerPort(str(directory), place_ms), "router", deadline_s=DEADLINE_S)
        for _ in range(2)
    ]
    try:
        async with _running(routers) as call:
            yield call
    finally:
        ray.kill(actor)


@asynccontextmanager
async def over_peer(url: str) -> AsyncIterator[Call]:
    """The peer's moving window in the same Redis."""
    storage = RedisStorage(f"async+{url}", implementation="redispy")
    limiter, item = MovingWindowRateLimiter(storage), RateLimitItemPerMinute(AMOUNT)

    async def call(caller: int) -> None:
        if not await limiter.hit(item, f"tenant-{caller % TENANTS}"):
            raise RuntimeError("the peer refused a call within its limit")

    try:
        yield call
    finally:
        bridge = storage.bridge
        assert isinstance(bridge, RedispyBridge)
        redis = bridge.get_connection()
        assert isinstance(redis, Redis)
        await redis.aclose()


@asynccontextmanager
async def _running(routers: list[RedisCounters] | list[SlicedCounters]) -> AsyncIterator[Call]:
    numbers = count()

    async def call(caller: int) -> None:
        router: Counters = routers[caller % 2]
        asks = _asks(f"tenant-{caller % TENANTS}")
        call_id = f"{caller}-{next(numbers)}"
        if (await router.reserve(call_id, asks)).refused is not None:
            raise RuntimeError("a call within its limits was refused")
        router.settle(call_id, [_charge(ask) for ask in asks])

    for router in routers:
        router.start()
    try:
        yield call
    finally:
        for router in routers:
            await router.close()


def _asks(tenant: str) -> list[LimitAsk]:
    return [
        LimitAsk(_limit(tenant, Measure.REQUESTS, LimitWindow.MINUTE), 1),
        LimitAsk(_limit(tenant, Measure.TOKENS, LimitWindow.MINUTE), TOKENS),
        LimitAsk(_limit(tenant, Measure.CALLS, LimitWindow.NOW), 1),
    ]


def _charge(ask: LimitAsk) -> Charge:
    used = {Measure.REQUESTS: 1, Measure.TOKENS: USED}.get(ask.limit.measure, 0)
    return Charge(ask.limit, ask.amount, used)


def _limit(tenant: str, measure: Measure, window: LimitWindow) -> Limit:
    key = f"{{{tenant}}}:tenant:{tenant}::{measure.value}:{window.value}"
    return Limit(key, measure, window, AMOUNT, "")
