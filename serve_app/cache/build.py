"""Makes the cache of a config."""

from __future__ import annotations

from serve_app.cache.answers import ResponseCache
from serve_app.cache.key import KeyMaker
from serve_app.cache.store import AnswerStore, MemoryStore
from serve_app.config.cache import CacheConfig
from serve_app.steps import Plan


def needs(plan: Plan) -> object:
    """What the cache is made of; the tiers are the same for the life of a Router."""
    return plan.runtime.cache, plan.runtime.routing.cascade


def build(plan: Plan) -> ResponseCache:
    """The cache.

    Raises:
        ValueError: names the key that no cache can be made of.
    """
    config = plan.runtime.cache
    assert config is not None, "the config asks for a cache"
    keys = KeyMaker(plan.app.tiers, plan.runtime.routing.cascade)
    return ResponseCache(config, keys, build_store(config))


def build_store(config: CacheConfig) -> AnswerStore:
    """The store of the answers.

    Raises:
        ValueError: the Redis client is not installed, or a file of its config cannot be read.
    """
    if config.redis is None:
        return MemoryStore(config.bytes_max, config.ttl_s)
    try:
        from serve_app.cache.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise ValueError(
            f"cache.store: {error.name} is not installed; pip install 'serve-app[redis]' brings it"
        ) from None
    return RedisStore(config.redis, config.ttl_s)
