"""Whose waiting calls come first."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.tiers import HOUR_S

Weight = Annotated[float, Field(gt=0, le=1_000_000)]


class FairnessConfig(Config):
    """How the tenants share a tier on which calls wait."""

    weights: dict[str, Weight] = Field(
        default_factory=dict,
        description="Share of each tenant, relative to the other tenants. A tenant with weight 2 "
        "gets twice the tokens of a tenant with weight 1 while both have calls that wait.",
    )
    default_weight: Weight = Field(1.0, description="Weight of the tenants not in `weights`.")
    batch_wait_max_s: float = Field(
        120.0,
        ge=0,
        le=24 * HOUR_S,
        description="Time after which a waiting call of priority `batch` counts as interactive. "
        "Before that, interactive calls of all tenants come first.",
    )
    answer_tokens_assumed: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Generated tokens that a call without a limit counts for while it waits. Once "
        "the call has been answered, its real tokens count.",
    )
    burst_tokens: int = Field(
        4096,
        ge=0,
        le=10_000_000,
        description="Tokens by which a tenant of weight 1 may go ahead of its share, after it has "
        "had less than its share. It lets a few calls that come at once have places at once.",
    )
    tenant_calls_ratio_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of `limits.calls_max` that the calls of one tenant may take in one "
        "Router; further calls of the tenant get 429. 1: no such limit.",
    )

    def weight(self, tenant: str) -> float:
        """The weight of a tenant."""
        return self.weights.get(tenant, self.default_weight)
