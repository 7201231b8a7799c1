"""Placeholder until the authenticator of keys and tokens is here."""

from __future__ import annotations

from serve_app.access.control import Identifier
from serve_app.access.identity import Identity
from serve_app.config.jwt import JwtConfig
from serve_app.config.keys import KeysConfig
from serve_app.core.caller import Credentials
from serve_app.core.errors import Unauthorized


def build_authenticator(keys: KeysConfig | None, jwt: JwtConfig | None) -> Identifier:
    """Raises ValueError if keys or tokens are asked for."""
    if keys is not None or jwt is not None:
        raise ValueError("access: keys and tokens cannot be checked yet")
    return NoProof()


class NoProof:
    """Takes no proof."""

    def start(self) -> None:
        """Nothing to begin."""

    async def close(self) -> None:
        """Nothing to free."""

    async def identify(self, credentials: Credentials) -> Identity:
        """Raises Unauthorized."""
        raise Unauthorized("kind of proof that is not taken")
