"""Fetches an image for an engine from a host that its tier allows, and from nowhere inside.

Bounds of bytes, pixels and time hold. A redirect is an error. The address is checked after the
name is resolved and is the address of the connection, so a name that changes its address gains
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from ssl import SSLContext
from urllib.parse import urlsplit

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ThreadedResolver,
)
from aiohttp.abc import AbstractResolver

from serve_app.core.image_header import NoImage, read_size
from serve_app.core.inside import PrivateAddress, is_listed, is_public
from serve_app.core.outside import CheckedResolver, open_session

FETCHES_MAX = 16
"""Images that one replica fetches at a time; each may hold `bytes_max`."""

CHUNK_BYTES = 64 * 1024
HEADERS = {"User-Agent": "serve-app", "Accept": "image/*", "Accept-Encoding": "identity"}


class NotFetched(Exception):
    """An image was not fetched; the message names the reason and nothing of the client's."""


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """From where the engines of a tier may fetch images, and how large these may be."""

    hosts: tuple[str, ...] = ()
    private_networks: tuple[str, ...] = ()
    bytes_max: int = 1
    pixels_max: int = 1
    fetch_s: float = 5.0

    def admits(self, address: str) -> bool:
        """Whether a connection to this address is allowed."""
        return is_listed(address, self.private_networks) or is_public(address)


class ImageFetcher:
    """Fetches images within a plan; each by a connection of its own."""

    def __init__(
        self,
        plan: MediaPlan,
        *,
        resolver: Callable[[], AbstractResolver] = ThreadedResolver,
        ssl: SSLContext | None = None,
    ) -> None:
        """`ssl` replaces the machine's trusted authorities."""
        self._plan, self._resolver, self._ssl = plan, resolver, ssl

    @cached_property
    def _places(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(FETCHES_MAX)

    async def fetch(self, url: str) -> bytes:
        """The file of an image.

        Raises:
            NotFetched: the URL is not allowed, or what is there is no image within the bounds.
        """
        self._check_url(url)
        try:
            async with (
                asyncio.timeout(self._plan.fetch_s),
                self._places,
                self._session() as session,
                session.get(url, allow_redirects=False) as response,
            ):
                file = await self._read(response)
        except TimeoutError:
            raise NotFetched("it took too long") from None
        except PrivateAddress:
            raise NotFetched("the host has a private address") from None
        except (ClientError, OSError, ValueError) as error:
            raise NotFetched(f"no connection ({type(error).__name__})") from None
        self._check_image(file)
        return file

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:
            raise NotFetched("the URL is broken") from None
        if parts.scheme != "https" or host is None or port not in (None, 443):
            raise NotFetched("only https URLs are fetched")
        if host not in self._plan.hosts or parts.username is not None:
            raise NotFetched("the host is not allowed")
        try:  # aiohttp does not ask a resolver for the address that a URL holds itself.
            admitted = self._plan.admits(host)
        except ValueError:
            return
        if not admitted:
            raise NotFetched("the host is a private address")

    def _session(self) -> ClientSession:
        resolver = CheckedResolver(self._plan.admits, self._resolver())
        return open_session(resolver, HEADERS, self._plan.fetch_s, self._ssl)

    async def _read(self, response: ClientResponse) -> bytes:
        if response.status != 200:
            raise NotFetched(f"the host answers {response.status}")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > self._plan.bytes_max:
                raise NotFetched(f"it has more than {self._plan.bytes_max} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _check_image(self, file: bytes) -> None:
        try:
            _, width, height = read_size(lambda offset, size: file[offset : offset + size])
        except NoImage:
            raise NotFetched("it is no PNG, JPEG, WebP or GIF image") from None
        if width * height > self._plan.pixels_max:
            raise NotFetched(f"it has more than {self._plan.pixels_max} pixels")
