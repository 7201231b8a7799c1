"""Posts one event to a receiver, and reaches nothing inside.

The time and the bytes of the answer are bounded, a redirect is an answer like any other, no
setting of a proxy in the environment is followed, and the address that was checked is the address
of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ssl import SSLContext
from urllib.parse import urlsplit

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ThreadedResolver,
)
from aiohttp.abc import AbstractResolver

from serve_app.batches.notices import Notice, NotPosted, Reply
from serve_app.batches.signing import sign
from serve_app.config.webhooks import WebhookConfig
from serve_app.core.inside import PrivateAddress
from serve_app.core.outside import CheckedResolver, open_session

HEADERS = {
    "User-Agent": "serve-app",
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
}


class WebhookPost:
    """One receiver. Every event goes by a connection of its own."""

    def __init__(
        self,
        hook: WebhookConfig,
        keys: Sequence[bytes],
        answer_s: float,
        *,
        resolver: Callable[[], AbstractResolver] = ThreadedResolver,
        ssl: SSLContext | None = None,
    ) -> None:
        """`ssl` replaces the machine's trusted authorities."""
        self._hook, self._keys, self._answer_s = hook, keys, answer_s
        self._resolver, self._ssl = resolver, ssl

    async def send(self, notice: Notice, now: float) -> Reply:
        """Post an event.

        Raises:
            NotPosted: there was no answer.
        """
        self._check_address()
        headers = sign(self._keys, notice.event_id, int(now), notice.body)
        try:
            async with (
                asyncio.timeout(self._answer_s),
                self._session() as session,
                session.post(
                    self._hook.url,
                    data=notice.body.encode(),
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                return Reply(response.status, _read_retry_after(response))
        except TimeoutError:
            raise NotPosted("no answer in time") from None
        except PrivateAddress:
            raise NotPosted("the address is not allowed") from None
        except (ClientError, OSError, ValueError) as error:
            raise NotPosted(f"no connection ({type(error).__name__})") from None

    def _check_address(self) -> None:
        """aiohttp does not ask a resolver for the address that a URL holds itself."""
        try:
            admitted = self._hook.admits(urlsplit(self._hook.url).hostname or "")
        except ValueError:
            return
        if not admitted:
            raise NotPosted("the address is not allowed")

    def _session(self) -> ClientSession:
        resolver = CheckedResolver(self._hook.admits, self._resolver())
        return open_session(resolver, HEADERS, self._answer_s, self._ssl)


def _read_retry_after(response: ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
