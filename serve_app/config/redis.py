"""A Redis that several Routers share."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from serve_app.config.base import Config
from serve_app.config.secret import AbsolutePath, SecretConfig


def _check_address(url: str) -> str:
    # No message repeats the value, because it may hold a password.
    try:
        parts = urlsplit(url)
        usable = bool(parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("write redis://HOST:PORT/NUMBER, rediss://... or unix:///PATH")
    if parts.password is not None:
        raise ValueError("a password does not belong in a config; write password: {file: ...}")
    return url


RedisUrl = Annotated[str, Field(pattern=r"^(rediss?|unix)://"), AfterValidator(_check_address)]


class RedisConfig(Config):
    """Where a Redis is, and how to log in to it."""

    url: RedisUrl = Field(
        description="Address of the Redis: `redis://host:port/0`, with TLS `rediss://...`, by a "
        "socket `unix:///path`. A user name may stand in it, a password may not."
    )
    password: SecretConfig | None = Field(None, description="The password. None: there is none.")
    ca_file: AbsolutePath | None = Field(
        None,
        description="Certificates that may sign the certificate of a `rediss` address. None: those "
        "of the system.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> RedisConfig:
        if self.ca_file is not None and not self.url.startswith("rediss:"):
            raise ValueError("ca_file goes with an address that begins with rediss://")
        return self
