"""A resolver for aiohttp that gives no address inside.

aiohttp connects to the addresses that its resolver returns, so a name that changes its address
after the check gains nothing. aiohttp does not ask a resolver for the address that a URL holds
itself; callers check that one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.core.inside import PrivateAddress


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
