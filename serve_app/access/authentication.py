"""Placeholder until the authenticator of keys and tokens is here."""

from __future__ import annotations

from serve_app.access.control import Identifier
from serve_app.config.jwt import JwtConfig
from serve_app.config.keys import KeysConfig


def build_authenticator(keys: KeysConfig | None, jwt: JwtConfig | None) -> Identifier:
    """Raises ValueError."""
    raise ValueError("access: keys and tokens cannot be checked yet")
