"""Fetches an issuer's public keys, and keeps them while the issuer cannot be reached."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx

from serve_app.access.jwk_set import PublicKey, choose_key, parse_jwk_set
from serve_app.config.jwt import IssuerConfig, JwtConfig
from serve_app.core.errors import AccessUnavailable, Unauthorized

BODY_BYTES_MAX = 1024 * 1024
RETRY_S = 5

logger = logging.getLogger("ray.serve")


class TokenKeys(Protocol):
    """The keys of one issuer."""

    @property
    def generation(self) -> int:
        """A number that changes whenever the keys change."""
        ...

    def check(self) -> None:
        """Raise AccessUnavailable if the keys are too old to be trusted."""
        ...

    async def find(self, key_id: str | None, algorithm: str) -> object:
        """The key for PyJWT that a token names.

        Raises:
            Unauthorized: the issuer has no such key.
            AccessUnavailable: the issuer cannot be asked for its keys.
        """
        ...

    def start(self) -> None:
        """Begin to keep the keys up to date."""
        ...

    async def close(self) -> None:
        """Free the resources."""
        ...


class JwksKeys:
    """The keys that an issuer publishes at an address."""

    def __init__(
        self,
        issuer: IssuerConfig,
        config: JwtConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises OSError if the issuer's `ca_file` cannot be used."""
        self._issuer = issuer
        self._config = config
        self._clock = clock
        context = ssl.create_default_context(cafile=issuer.ca_file) if issuer.ca_file else True
        self._client = httpx.AsyncClient(
            verify=context, timeout=config.fetch_s, follow_redirects=False, trust_env=False
        )
        self._keys: Sequence[PublicKey] = ()
        self._body = b""
        self._read_at = self._tried_at = float("-inf")
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[None] | None = None
        self.generation = 0

    def start(self) -> None:
        """Fetch the keys now, and again and again."""
        if self._refresher is None:
            self._refresher = asyncio.get_running_loop().create_task(self._refresh())

    async def close(self) -> None:
        """Stop fetching."""
        tasks = [task for task in (self._refresher, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def check(self) -> None:
        """Raise AccessUnavailable if the last good fetch is too long ago."""
        if self._clock() - self._read_at > self._config.stale_max_s:
            raise AccessUnavailable(RETRY_S)

    async def find(self, key_id: str | None, algorithm: str) -> object:
        """The key that a token names, after one more fetch if it is not known.

        The time between two fetches is bounded, because anyone can send tokens with new names.
        """
        found = self._choose(key_id, algorithm)
        if found is None and self._may_fetch():
            await self.fetch()
            found = self._choose(key_id, algorithm)
        self.check()
        if found is not None:
            return found.key
        if self._failing:
            raise AccessUnavailable(RETRY_S)
        raise Unauthorized("unknown signing key")

    async def fetch(self) -> None:
        """Fetch the keys, or wait for the fetch that runs. A failure leaves the old keys."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        # A client that leaves must not end the fetch for which others wait.
        await asyncio.shield(self._fetching)

    def _choose(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        return choose_key(self._keys, key_id, algorithm)

    def _may_fetch(self) -> bool:
        runs = self._fetching is not None and not self._fetching.done()
        return runs or self._clock() - self._tried_at >= self._config.refetch_min_s

    async def _refresh(self) -> None:
        config = self._config
        while True:
            await self.fetch()
            await asyncio.sleep(
                min(config.refetch_min_s, config.refresh_s) if self._failing else config.refresh_s
            )

    async def _fetch(self) -> None:
        self._tried_at = began = self._clock()
        try:
            async with asyncio.timeout(self._config.fetch_s):
                body = await self._read()
            keys = parse_jwk_set(body, frozenset(self._issuer.algorithms))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError) as error:
            if not self._failing:
                logger.error(
                    "jwt: the keys of %s cannot be fetched (%s)",
                    self._issuer.issuer,
                    type(error).__name__,
                )
            self._failing = True
            return
        self._read_at, self._failing = began, False
        if body != self._body:
            self._body, self._keys = body, keys
            self.generation += 1

    async def _read(self) -> bytes:
        """The body of the issuer's answer; ValueError for any other answer than a 200 of a size."""
        headers = {"accept": "application/json"}
        async with self._client.stream(
            "GET", str(self._issuer.jwks_url), headers=headers
        ) as answer:
            if answer.status_code != 200:
                raise ValueError("not a 200")
            body = bytearray()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise ValueError("too long")
            return bytes(body)


class SharedSecret:
    """The one secret of an issuer for tests."""

    generation = 0

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def check(self) -> None:
        """A secret does not age."""

    async def find(self, key_id: str | None, algorithm: str) -> object:
        """The secret, whatever the token names: it can name no other."""
        return self._secret

    def start(self) -> None:
        """There is nothing to keep up to date."""

    async def close(self) -> None:
        """There is nothing to free."""
