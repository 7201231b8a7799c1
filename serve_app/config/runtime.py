"""The Router's `user_config`: everything that changes without a restart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.tiers import DAY_S, HOUR_S, NAME_PATTERN


class RoutingConfig(Config):
    """When a call of `model: auto` leaves the weakest tier."""

    strong_score_min: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Complexity score from which a call goes to the strongest tier, inclusive. "
        "With more than two tiers the range below it is divided evenly among the others.",
    )
    fast_prompt_tokens_max: int = Field(
        8192,
        gt=0,
        le=10_000_000,
        description="Estimated prompt tokens above which a call leaves the weakest tier, whatever "
        "its score.",
    )
    default_tier: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        None,
        description="Send every `auto` call here and score nothing. None: route by complexity.",
    )
    scorer: Literal["heuristic", "learned"] = Field(
        "learned",
        description="What scores a prompt: weights learnt from labelled calls, or the "
        "hand-weighted heuristic.",
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="The learned scorer's weights, a file that `serve-app learn` wrote and every "
        "Router replica can read. None: those that come with serve-app.",
    )


class LimitsConfig(Config):
    """What one Router replica takes on."""

    body_bytes_max: int = Field(
        8 * 1024 * 1024,
        gt=0,
        le=1024**3,
        description="Longest request body; longer ones get 413.",
    )
    calls_max: int = Field(
        1024, gt=0, le=65536, description="Calls in flight in one Router replica; more get 429."
    )


class DeadlinesConfig(Config):
    """How long a call may wait at each stage."""

    lease_s: float = Field(
        30.0, gt=0, le=HOUR_S, description="For a free place on a replica of the tier; then 503."
    )
    first_byte_s: float = Field(
        120.0,
        gt=0,
        le=HOUR_S,
        description="For the first byte of the answer of a streamed call; then 504.",
    )
    gap_s: float = Field(
        60.0,
        gt=0,
        le=HOUR_S,
        description="Between two pieces of a stream; then the stream is broken off.",
    )
    total_s: float = Field(3600.0, gt=0, le=DAY_S, description="For the whole call.")


class LeaseConfig(Config):
    """How a Router holds places on replicas."""

    reuse_s: float = Field(
        0.25,
        ge=0,
        le=0.9,
        description="How long a place is kept for the next call after one has ended. 0: every call "
        "asks Ray anew.",
    )
    age_max_s: float = Field(
        2.0,
        gt=0,
        le=30,
        description="After how long Ray is asked again for the best replica.",
    )


class RuntimeConfig(Config):
    """The whole `user_config` of the Router."""

    routing: RoutingConfig = Field(default_factory=RoutingConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    deadlines: DeadlinesConfig = Field(default_factory=DeadlinesConfig)
    leases: LeaseConfig = Field(default_factory=LeaseConfig)
