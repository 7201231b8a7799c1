"""vLLM's way to media, closed: it takes images in the body, and fetches by our own rules.

vLLM 0.29 fetches `http:` and `https:` URLs from any host unless `allowed_media_domains` is set,
follows redirects unless `VLLM_MEDIA_URL_ALLOW_REDIRECTS` is 0, and connects to private addresses in
any case. So its own code for remote media is never used. `VLLM_MEDIA_CONNECTOR` names our class,
and vLLM fails at the first image if no class of that name is registered, so nothing opens by
itself.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from PIL.Image import DecompressionBombError
from vllm.exceptions import VLLMUnprocessableEntityError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.base import MediaIO
from vllm.multimodal.media.image import ImageMediaIO

from serve_app.replica.image_fetch import ImageFetcher, MediaPlan, NotFetched

CONNECTOR = "serve_app"
"""The value of `VLLM_MEDIA_CONNECTOR` that `deploy/plan.py` sets."""

logger = logging.getLogger("ray.serve")


def install_connector(plan: MediaPlan) -> None:
    """Register the connector of this process."""
    fetcher = ImageFetcher(plan)
    MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)(partial(CheckedConnector, fetcher))


class CheckedConnector(MediaConnector):  # type: ignore[misc]  # vLLM has no types
    """Takes `data:` URLs of images as vLLM does, and fetches others by an `ImageFetcher`."""

    def __init__(
        self, fetcher: ImageFetcher, media_io_kwargs: Any = None, **allowed: object
    ) -> None:
        """`allowed` is what vLLM's own arguments allow, and is not asked."""
        super().__init__(media_io_kwargs=media_io_kwargs)
        self._fetcher = fetcher

    def load_from_url(
        self, url: str, media_io: MediaIO[Any], *, fetch_timeout: int | None = None
    ) -> Any:
        """Read an image of the body. vLLM's server uses the other method; this one fetches nothing.

        Raises:
            VLLMUnprocessableEntityError: it is no image, or not in the body.
        """
        if not _is_data(url) or not isinstance(media_io, ImageMediaIO):
            raise _unfetched("it is no image of the body")
        return super().load_from_url(url, media_io)

    async def load_from_url_async(
        self, url: str, media_io: MediaIO[Any], *, fetch_timeout: int | None = None
    ) -> Any:
        """Read an image of the body, or fetch one.

        Raises:
            VLLMUnprocessableEntityError: it is no image, or was not fetched.
        """
        if not isinstance(media_io, ImageMediaIO):
            raise _unfetched("it is no image")
        try:
            if _is_data(url):
                return await super().load_from_url_async(url, media_io)
            file = await self._fetcher.fetch(url)
            return await asyncio.to_thread(media_io.load_bytes, file)
        except NotFetched as why:
            raise _unfetched(str(why)) from None
        except DecompressionBombError:  # Pillow's own bound, which vLLM would call its own error.
            raise _unfetched("it has too many pixels") from None


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def _unfetched(why: str) -> VLLMUnprocessableEntityError:
    """vLLM's error for media that it could not fetch, which `gateway/engine_errors.py` knows."""
    logger.info("an image was not fetched: %s", why)
    return VLLMUnprocessableEntityError(
        f"Failed to fetch media from URL: {why}", parameter="image_url"
    )
