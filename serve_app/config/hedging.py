"""When a call whose first token is late is also sent to a second replica."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from serve_app.config.base import Config
from serve_app.config.tiers import HOUR_S, NAME_PATTERN

HedgedTier = Annotated[str, Field(pattern=NAME_PATTERN)]


class HedgingConfig(Config):
    """When a streamed call is sent a second time, while its first replica has sent no token."""

    tiers: tuple[HedgedTier, ...] | None = Field(
        None, description="Tiers whose calls are hedged. None: all tiers."
    )
    quantile: float = Field(
        0.95,
        ge=0.5,
        le=0.999,
        description="A call is hedged once it has waited for its first token, since it got its "
        "place, for longer than this part of the tier's newest 512 calls.",
    )
    wait_s_min: float = Field(
        0.1, ge=0.001, le=HOUR_S, description="Shortest wait before a call is hedged."
    )
    wait_s_max: float = Field(
        10.0, ge=0.001, le=HOUR_S, description="Longest wait before a call is hedged."
    )
    samples_min: int = Field(
        100,
        ge=1,
        le=512,
        description="First tokens that a Router measures on a tier before it hedges calls there.",
    )
    ratio_max: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Most hedges, as a part of the tier's calls. Up to 10 hedges are saved up. "
        "Each hedge also takes a retry from the budget of `retries`.",
    )

    def covers(self, tier: str) -> bool:
        """Whether the calls of a tier are hedged."""
        return self.tiers is None or tier in self.tiers

    @model_validator(mode="after")
    def _ordered(self) -> HedgingConfig:
        if self.wait_s_min > self.wait_s_max:
            raise ValueError(f"wait_s_min: {self.wait_s_min:g} is above {self.wait_s_max:g}")
        return self
