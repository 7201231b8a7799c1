"""Keeps answers in a Redis that all Routers share.

The Redis may be slow, full, gone or wrong: a call waits for it no longer than its deadline, and
then goes to an engine. After a failure, no call asks the Redis for `pause_s`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serve_app.cache.entry import StoredAnswer, dump_entry, parse_entry
from serve_app.config.cache import CacheRedisConfig
from serve_app.config.reader import ConfigError, read_redis_options

logger = logging.getLogger("ray.serve")

PREFIX = b"serve-app:answer:"
CONNECTIONS_MAX = 32
WRITES_MAX = 64
"""Writes in flight; further answers are not kept."""
WRITE_S = 5.0


class RedisStore:
    """Answers under keys with a time to live."""

    def __init__(self, config: CacheRedisConfig, ttl_s: float) -> None:
        """Raises ValueError if the password cannot be read."""
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._deadline_s = config.deadline_ms / 1000
        self._pause_s = config.pause_s
        self._paused_until = float("-inf")
        self._writes: set[asyncio.Task[None]] = set()
        self._redis = connect(config)

    async def get(self, key: bytes) -> StoredAnswer | None:
        """The answer, None where there is none or the Redis did not answer in time."""
        if asyncio.get_running_loop().time() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(self._deadline_s):
                data = await self._redis.get(PREFIX + key)
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)
            return None
        return parse_entry(data) if isinstance(data, bytes) else None

    def put(self, key: bytes, entry: StoredAnswer) -> None:
        """Write an answer in the background."""
        loop = asyncio.get_running_loop()
        if len(self._writes) < WRITES_MAX and loop.time() >= self._paused_until:
            write = loop.create_task(self._write(PREFIX + key, dump_entry(entry)))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        """End the writes, and close the connections."""
        for write in self._writes:
            write.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._redis.aclose()

    async def _write(self, key: bytes, data: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_S):
                await self._redis.set(key, data, px=self._ttl_ms)
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._paused_until:
            # The error's text would hold the address.
            logger.warning("the cache's Redis fails: %s", type(error).__name__)
        self._paused_until = now + self._pause_s


def connect(config: CacheRedisConfig) -> Redis:
    """The client; it connects at its first use.

    Raises:
        ValueError: the password cannot be read.
    """
    try:
        options: dict[str, Any] = {**read_redis_options(config)}
    except ConfigError as error:
        raise ValueError(f"cache.redis.password: {error}") from None
    pool = BlockingConnectionPool.from_url(
        config.url,
        max_connections=CONNECTIONS_MAX,
        timeout=None,
        socket_connect_timeout=WRITE_S,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis.from_pool(pool)
