"""Answers in a real Redis, and a Redis that fails in every way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from serve_app.cache.entry import StoredAnswer, dump_entry
from serve_app.cache.redis_store import PREFIX, RedisStore
from serve_app.config.cache import CacheRedisConfig
from serve_app.core.call import Decision, Reason
from tests.redis_server import redis_url, run_redis

__all__ = ["redis_url"]

ENTRY = StoredAnswer(
    Decision("fast", "demo-fast", Reason.SIMPLE, 0.25, 0.5),
    b"text/event-stream",
    (b"data: {}\n\n", b"", "data: é\n\n".encode()),
)
KEY = bytes(range(24))


def make_store(url: str, **config: object) -> RedisStore:
    return RedisStore(CacheRedisConfig.model_validate({"url": url, **config}), ttl_s=60)


async def stored(store: RedisStore, key: bytes) -> StoredAnswer:
    """The entry, once the write in the background has come through."""
    async with asyncio.timeout(10):
        while (entry := await store.get(key)) is None:
            await asyncio.sleep(0.01)
    return entry


async def test_another_router_gets_the_same_answer(redis_url: str) -> None:
    """What one Router keeps, another Router gives, in the same chunks."""
    one, two = make_store(redis_url, deadline_ms=5000), make_store(redis_url, deadline_ms=5000)
    assert await two.get(KEY) is None
    one.put(KEY, ENTRY)
    assert await stored(two, KEY) == ENTRY
    await one.close()
    await two.close()


async def test_an_answer_lives_for_its_time(redis_url: str) -> None:
    """Redis itself forgets it, also when every Router has gone."""
    store = make_store(redis_url, deadline_ms=5000)
    store.put(KEY, ENTRY)
    await stored(store, KEY)
    async with Redis.from_url(redis_url) as redis:
        assert 0 < await redis.pttl(PREFIX + KEY) <= 60_000
    await store.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\xff" * 40, dump_entry(ENTRY)[:-1], dump_entry(ENTRY) + b"x", b"\0\0\0\2{}"],
    ids=["empty", "short", "garbage", "cut", "longer", "no-head"],
)
async def test_bytes_that_are_no_answer_are_not_given(redis_url: str, data: bytes) -> None:
    """Whatever stands in the Redis, a call gets a whole answer or goes to an engine."""
    store = make_store(redis_url, deadline_ms=5000)
    async with Redis.from_url(redis_url) as redis:
        await redis.set(PREFIX + KEY, data)
    assert await store.get(KEY) is None
    await store.close()


async def test_a_redis_that_dies_costs_a_call_no_more_than_its_deadline(tmp_path: Path) -> None:
    """The call goes to an engine; and when the Redis is back, so are the answers."""
    with run_redis(tmp_path, "--save", "") as url:
        store = make_store(url, deadline_ms=5000, pause_s=0)
        store.put(KEY, ENTRY)
        await stored(store, KEY)
    assert await store.get(KEY) is None
    store.put(KEY, ENTRY)
    port = int(url.rpartition(":")[2].partition("/")[0])
    with run_redis(tmp_path, "--save", "", port=port):
        async with asyncio.timeout(20):
            while await store.get(KEY) is None:
                store.put(KEY, ENTRY)
                await asyncio.sleep(0.02)
        await store.close()


async def test_a_silent_redis_is_not_asked_again_at_once() -> None:
    """After a failure the calls of the next moments do not wait at all."""
    asked = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        store = make_store(f"redis://127.0.0.1:{port}", deadline_ms=20, pause_s=60)
        assert await store.get(KEY) is None
        before = asked
        assert await store.get(KEY) is None
        store.put(KEY, ENTRY)
        assert asked == before
        await store.close()


async def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    """The config is no secret, so the password does not stand there."""
    secret = tmp_path / "password"
    secret.write_text("opensesame\n")
    with run_redis(tmp_path, "--save", "", "--requirepass", "opensesame") as url:
        store = make_store(url, password={"file": str(secret)}, deadline_ms=5000)
        store.put(KEY, ENTRY)
        assert await stored(store, KEY) == ENTRY
        await store.close()


def test_a_password_file_that_is_missing_is_named() -> None:
    """The Router says which key to mend, and does not start."""
    with pytest.raises(ValueError, match=r"cache\.redis\.password"):
        make_store("redis://127.0.0.1:1", password={"file": "/nowhere"})


def test_an_address_with_a_password_is_refused() -> None:
    """It would be readable in the dashboard, which shows the config."""
    with pytest.raises(ValueError, match="url"):
        CacheRedisConfig(url="redis://:secret@host:1/0")
