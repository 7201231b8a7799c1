"""What the engines of a tier take besides text, and whence they may fetch it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from serve_app.config.base import Config
from serve_app.core.images import Patches

HOST_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"

Host = Annotated[str, Field(pattern=HOST_PATTERN)]


def _check_network(network: str) -> str:
    try:
        ip_network(network)
    except ValueError:
        raise ValueError(f"'{network}' is not a network; write, for example, 10.1.2.0/24") from None
    return network


Network = Annotated[str, AfterValidator(_check_network)]


class MediaConfig(Config):
    """The images that a tier takes; an image beyond a bound gets 400."""

    allowed_hosts: tuple[Host, ...] = Field(
        (),
        max_length=256,
        description="Hosts, in lower case, from which the tier's engines may fetch images by "
        "`https:`. None: only `data:` URLs are accepted. The Router fetches nothing. The engine "
        "follows no redirect, and does not connect to a private address "
        "([images.md](images.md#who-fetches)).",
    )
    private_networks: tuple[Network, ...] = Field(
        (),
        max_length=64,
        description="Networks of private addresses in which `allowed_hosts` may be, for example "
        "`10.1.2.0/24`.",
    )
    images_max: int = Field(16, ge=1, le=1024, description="Images of one call.")
    image_bytes_max: int = Field(
        10 * 1024 * 1024, ge=64, le=1_073_741_824, description="Size of the file of one image."
    )
    image_pixels_max: int = Field(
        16_777_216,
        ge=1,
        le=178_956_970,
        description="Width times height of one image. The engine decodes an image of this size, "
        "at three bytes a pixel and more, before it makes it smaller.",
    )
    fetch_s: int = Field(
        5, ge=1, le=300, description="Time to fetch one image; also the time to connect."
    )
    patches: Patches | None = Field(
        None,
        description="How the model divides an image into tokens: `qwen2_5_vl` (28 x 28 pixels) or "
        "`qwen3_vl` (32 x 32 pixels). Bounds of pixels in `engine.mm_processor_kwargs` are "
        "followed. None: `qwen3_vl` if the model's name contains Qwen3, otherwise `qwen2_5_vl`.",
    )
