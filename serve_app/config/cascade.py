"""When a draft of the weakest tier is good enough: part of the Router's `user_config`."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.base import Config


class ConfidenceConfig(Config):
    """The map from a draft's tokens to P(right): logistic, so calibrated if it was fitted.

    The defaults were fitted on the demo model `fast` (docs/routing.md); others need their own.
    """

    bias: float = Field(-5.71, ge=-1000, le=1000, description="Log-odds where both are 0.")
    mean_probability_weight: float = Field(
        0.72,
        ge=-1000,
        le=1000,
        description="Log-odds per unit of the tokens' geometric mean probability, 0 to 1.",
    )
    min_probability_weight: float = Field(
        9.31,
        ge=-1000,
        le=1000,
        description="Log-odds per unit of the least probable token's probability, 0 to 1.",
    )


class CascadeConfig(Config):
    """How a call is begun on the weakest tier, and when it leaves for the strongest."""

    draft_score_max: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Complexity score from which a call goes to the strongest tier at once, "
        "without a draft, inclusive. 0: no call is drafted.",
    )
    checkpoint_tokens: int = Field(
        16,
        ge=1,
        le=256,
        description="How many tokens of each choice are held back and judged; fewer if it ends "
        "sooner.",
    )
    checkpoint_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="How long a draft may take to get there, the wait for a place included; then "
        "the strongest tier answers.",
    )
    confidence_min: float = Field(
        0.7,
        ge=0,
        le=1,
        description="P(right) from which a draft is released, inclusive. 0: always. 1: never.",
    )
    confidence: ConfidenceConfig = Field(default_factory=ConfidenceConfig)
