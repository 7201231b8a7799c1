"""When a draft of the weakest tier is good enough: part of the Router's `user_config`."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.base import Config


class ConfidenceConfig(Config):
    """The logistic map from a draft's tokens to P(right), which is calibrated if it was fitted.

    The defaults were fitted on the demo model `fast` (docs/routing.md). Other models need a fit of
    their own.
    """

    bias: float = Field(
        -5.71, ge=-1000, le=1000, description="Log-odds if both probabilities below are 0."
    )
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
    """How a call begins on the weakest tier, and when it moves to the strongest tier."""

    draft_score_max: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Calls with at least this complexity score go to the strongest tier at once, "
        "without a draft. 0: no call is drafted.",
    )
    checkpoint_tokens: int = Field(
        16,
        ge=1,
        le=256,
        description="Tokens of each choice that are held back and judged; fewer if the choice "
        "ends earlier.",
    )
    checkpoint_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Time that a draft may take to reach the checkpoint, including the wait for a "
        "place. After that the strongest tier answers.",
    )
    confidence_min: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Drafts with at least this P(right) are released. 0: every draft. 1: no draft.",
    )
    confidence: ConfidenceConfig = Field(default_factory=ConfidenceConfig)
