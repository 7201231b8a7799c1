"""Connections to other hosts that reach nothing inside.

aiohttp connects to the addresses that its resolver returns, so a name that changes its address
after the check gains nothing. aiohttp does not ask a resolver for the address that a URL holds
itself; callers check that one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from ssl import SSLContext

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.core.inside import PrivateAddress

HEAD_BYTES_MAX = 8190
"""Of a line and of a field of an answer's head, aiohttp's default."""


class CheckedResolver(AbstractResolver):
    """Resolves a name, and refuses it if any of its addresses is not admitted."""

    def __init__(self, admits: Callable[[str], bool], inner: AbstractResolver) -> None:
        self._admits, self._inner = admits, inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of the name.

        Raises:
            PrivateAddress: one of them is inside.
        """
        found = await self._inner.resolve(host, port, family)
        if not all(self._admits(one["host"]) for one in found):
            raise PrivateAddress
        return found

    async def close(self) -> None:
        """Close the resolver behind."""
        await self._inner.close()


def open_session(
    resolver: CheckedResolver,
    headers: Mapping[str, str],
    total_s: float,
    ssl: SSLContext | None = None,
) -> ClientSession:
    """A session for one request, without cookies, kept connections and proxies of the environment.

    `ssl` replaces the machine's trusted authorities.
    """
    return ClientSession(
        connector=TCPConnector(
            resolver=resolver,
            use_dns_cache=False,
            force_close=True,
            ssl=ssl if ssl is not None else True,
        ),
        cookie_jar=DummyCookieJar(),
        headers=headers,
        timeout=ClientTimeout(total=total_s),
        max_line_size=HEAD_BYTES_MAX,
        max_field_size=HEAD_BYTES_MAX,
        auto_decompress=False,
        trust_env=False,
    )
