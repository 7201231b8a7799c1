"""Limits of Routers and of callers."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.base import Config

BODY_BYTES_UNKNOWN = 8 * 1024 * 1024
"""The limit of a body if the context length of a tier is not known."""


class LimitsConfig(Config):
    """Limits of one Router replica."""

    given_body_bytes_max: int | None = Field(
        None,
        alias="body_bytes_max",
        gt=0,
        le=1024**3,
        description="Longest request body; a longer body gets 413. None: computed from the "
        "longest context of any tier, at 10 bytes per token, plus 256 KiB for everything else, "
        "plus 20 MiB for images if a tier's `engine` has `limit_mm_per_prompt`. A tier whose "
        "`engine` has no `max_model_len` counts 8 MiB.",
    )
    calls_max: int = Field(
        1024,
        gt=0,
        le=65536,
        description="Calls in flight in one Router replica; further calls get 429.",
    )

    @property
    def body_bytes_max(self) -> int:
        """The limit in effect."""
        return self.given_body_bytes_max or BODY_BYTES_UNKNOWN

    @property
    def limits_callers(self) -> bool:
        """Whether any limit holds for callers, beside the limits of the Router itself."""
        return False
