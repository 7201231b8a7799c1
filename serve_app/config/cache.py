"""The cache of whole answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from serve_app.config.base import Config
from serve_app.config.redis import RedisConfig
from serve_app.config.tiers import DAY_S

MIB = 1024 * 1024


class CacheRedisConfig(RedisConfig):
    """A Redis that all Routers share."""

    deadline_ms: int = Field(
        50,
        ge=1,
        le=5000,
        description="Time that a call waits for the Redis. After that the call goes to an engine.",
    )
    pause_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Time for which no call asks the Redis after the Redis has failed.",
    )


class CacheConfig(Config):
    """Which answers are kept, where, and for how long."""

    store: Literal["memory", "redis"] = Field(
        "memory",
        description="memory: each Router keeps its own answers. redis: all Routers share them.",
    )
    bytes_max: int = Field(
        256 * MIB,
        ge=MIB,
        le=1024 * 1024 * MIB,
        description="Memory for the answers of one Router; the answers that were not used for "
        "longest go first. With `store: redis`, set `maxmemory` of the Redis.",
    )
    answer_bytes_max: int = Field(
        MIB,
        ge=1024,
        le=256 * MIB,
        description="The longest answer that is kept or shared, in bytes.",
    )
    ttl_s: float = Field(
        3600.0, gt=0, le=30 * DAY_S, description="Time for which an answer is kept."
    )
    share_in_flight: bool = Field(
        True,
        description="Let a call that repeats a call in flight take that call's answer as it is "
        "generated.",
    )
    redis: CacheRedisConfig | None = Field(
        None, description="The Redis, required with `store: redis`."
    )

    @model_validator(mode="after")
    def _complete(self) -> CacheConfig:
        if (self.store == "redis") != (self.redis is not None):
            raise ValueError("`store: redis` and the section `redis` belong together")
        if self.answer_bytes_max > self.bytes_max:
            raise ValueError(f"answer_bytes_max is above bytes_max ({self.bytes_max})")
        return self
