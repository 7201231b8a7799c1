"""The config of API keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from serve_app.config.base import Config
from serve_app.config.redis import RedisConfig
from serve_app.config.secret import AbsolutePath, SecretConfig
from serve_app.config.tiers import DAY_S, HOUR_S


class KeysRedisConfig(RedisConfig):
    """A Redis that holds the API keys of all Routers."""

    prefix: str = Field(
        "serve-app:keys",
        pattern=r"^[A-Za-z0-9:_{}.-]{1,64}$",
        description="Beginning of the names of the three Redis keys that hold the API keys.",
    )


class KeysConfig(Config):
    """Where API keys are kept, and what holds while this place cannot be reached."""

    file: AbsolutePath | None = Field(
        None,
        description="SQLite file with the keys, on every node that runs a Router. `serve-app keys "
        "create` makes it. For several nodes use `redis`.",
    )
    redis: KeysRedisConfig | None = Field(
        None, description="Redis with the keys, in place of `file`."
    )
    pepper: SecretConfig = Field(
        description="The secret of at least 32 bytes with which keys are hashed. It must be kept "
        "apart from the keys, because both together allow to make keys."
    )
    poll_s: float = Field(
        1.0,
        gt=0,
        le=2,
        description="Time between two looks of a Router at the store. A new, changed or revoked "
        "key takes effect after this time.",
    )
    read_s: float = Field(2.0, gt=0, le=2, description="Time that one read of the store may take.")
    unreachable: Literal["closed", "known"] = Field(
        "closed",
        description="What holds after `stale_max_s` without the store. closed: every key is "
        "answered with 503. known: the keys of the last read stay valid for as long as the store "
        "cannot be reached.",
    )
    stale_max_s: float = Field(
        300.0,
        ge=0,
        le=DAY_S,
        description="Time for which the keys of the last read stay valid while the store cannot be "
        "reached. Other keys are answered with 503 in this time. At least 5 s always pass.",
    )
    last_used_s: float = Field(
        60.0,
        ge=1,
        le=HOUR_S,
        description="Time between two writes of the last uses of keys to the store.",
    )

    @model_validator(mode="after")
    def _one_store(self) -> KeysConfig:
        if (self.file is None) == (self.redis is None):
            raise ValueError("set either file or redis")
        return self
