"""The config of `serve_app/access`."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.jwt import JwtConfig
from serve_app.config.keys import KeysConfig


class AccessConfig(Config):
    """Who may call."""

    keys: KeysConfig | None = Field(None, description="API keys. None: no key is valid.")
    jwt: JwtConfig | None = Field(None, description="JSON Web Tokens. None: no token is valid.")
