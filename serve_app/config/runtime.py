"""The Router's `user_config`: everything that changes without a restart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve_app.config.base import Config
from serve_app.config.bodies import BodiesConfig
from serve_app.config.cascade import CascadeConfig
from serve_app.config.feedback import FeedbackConfig
from serve_app.config.tiers import DAY_S, HOUR_S, NAME_PATTERN
from serve_app.core.deadlines import Deadlines

BODY_BYTES_UNKNOWN = 8 * 1024 * 1024
"""What a body may have where no context length is known."""

Score = Annotated[float, Field(ge=0, le=1)]


TierName = Annotated[str, Field(pattern=NAME_PATTERN)]


class LoadConfig(Config):
    """How the load of the tiers moves calls whose score is near the threshold."""

    first_token_target_s: float | None = Field(
        None,
        gt=0,
        le=HOUR_S,
        description="The strongest tier is busy when a call is estimated to wait longer than this "
        "for its first token there. None: it is not looked at.",
    )
    kv_free_ratio_min: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The strongest tier is busy, too, when its engines have less than this part of "
        "their KV caches free in the mean. 0: it is not looked at.",
    )
    busy_score_band: float = Field(
        0.15,
        ge=0,
        le=1,
        description="While the strongest tier is busy, calls that score less than this above the "
        "threshold go to the next weaker one.",
    )
    idle_score_band: float = Field(
        0.0,
        ge=0,
        le=1,
        description="While the strongest tier is idle, calls that score up to this below the "
        "threshold go there. 0: none.",
    )
    idle_ongoing_max: float = Field(
        0.0,
        ge=0,
        le=65536,
        description="Calls that each replica of the strongest tier may hold in the mean, while the "
        "tier still counts as idle.",
    )

    @property
    def watched(self) -> bool:
        """Whether any rule looks at the load."""
        return (
            self.first_token_target_s is not None
            or self.kv_free_ratio_min > 0
            or self.idle_score_band > 0
        )


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
    default_tier: TierName | None = Field(
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
    strong_ratio_target: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of `auto` calls that go to the strongest tier by their score. The "
        "Router moves the threshold to hold it while the traffic changes; `strong_score_min` is "
        "where it begins. None: `strong_score_min` stays the threshold. `serve-app calibrate` says "
        "what a share buys.",
    )
    strong_score_min_bounds: tuple[Score, Score] = Field(
        (0.0, 1.0),
        description="Lowest and highest threshold that `strong_ratio_target` may set. Where one of "
        "them is reached, the share is missed rather than hard calls kept from the strongest tier "
        "or easy ones sent there.",
    )
    strong_ratio_window: int = Field(
        500,
        ge=200,
        le=100_000,
        description="Number of newest scores behind the moving threshold and the drift.",
    )
    never_below: TierName | None = Field(
        None,
        description="No `auto` call goes to a weaker tier than this one. A call narrows it with "
        "the header `x-route-never-below`.",
    )
    never_above: TierName | None = Field(
        None,
        description="No `auto` call goes to a stronger tier than this one. A call narrows it with "
        "the header `x-route-never-above`.",
    )
    fallback: bool = Field(
        True,
        description="Send `auto` calls to another tier where theirs is down or takes no more; the "
        "answer says so (`x-route-reason: fallback`).",
    )
    fallback_after_s: float = Field(
        2.0,
        gt=0,
        le=HOUR_S,
        description="How long such a call waits for a tier on which its Router gets no place at "
        "all. Then the tier counts as down until a replica of it can be reached.",
    )
    policy: Literal["complexity", "cascade"] = Field(
        "complexity",
        description="What decides where no other rule does: the prompt alone, or, with `cascade`, "
        "also how sure the weakest tier is of the answer it begins. A call may override it by the "
        "header `x-route-policy`.",
    )
    cascade: CascadeConfig = Field(default_factory=CascadeConfig)
    load: LoadConfig = Field(default_factory=LoadConfig)

    @model_validator(mode="after")
    def _ordered(self) -> RoutingConfig:
        low, high = self.strong_score_min_bounds
        if low > high:
            raise ValueError(f"strong_score_min_bounds: {low:g} is above {high:g}")
        return self


class LimitsConfig(Config):
    """What one Router replica takes on."""

    given_body_bytes_max: int | None = Field(
        None,
        alias="body_bytes_max",
        gt=0,
        le=1024**3,
        description="Longest request body; longer ones get 413. None: what the longest context of "
        "a tier holds, at 10 bytes a token and 256 KiB for the rest, with 20 MiB for images "
        "where a tier's `engine` has `limit_mm_per_prompt`; 8 MiB where a tier's `engine` has no "
        "`max_model_len`.",
    )
    calls_max: int = Field(
        1024, gt=0, le=65536, description="Calls in flight in one Router replica; more get 429."
    )

    @property
    def body_bytes_max(self) -> int:
        """The limit that holds."""
        return self.given_body_bytes_max or BODY_BYTES_UNKNOWN


class DeadlinesConfig(Config):
    """How long a call may take, from the moment when it arrives; whatever tiers it is tried on."""

    lease_s: float = Field(
        30.0,
        gt=0,
        le=HOUR_S,
        description="Time in all that a call waits for a free place on a replica; then 503.",
    )
    first_byte_s: float = Field(
        120.0,
        gt=0,
        le=HOUR_S,
        description="Until the first byte of the answer of a streamed call, waits for places "
        "included; then 504.",
    )
    gap_s: float = Field(
        60.0,
        gt=0,
        le=HOUR_S,
        description="Between two pieces of a stream; then the stream is broken off.",
    )
    total_s: float = Field(
        3600.0,
        gt=0,
        le=DAY_S,
        description="For the whole call, until the client has its last byte. A client that reads "
        "too slowly is cut off then, too.",
    )

    def start(self, now: float) -> Deadlines:
        """The deadlines of a call that arrives now, in seconds of the event loop's clock."""
        return Deadlines(
            now,
            place_s=self.lease_s,
            first_byte_s=self.first_byte_s,
            gap_s=self.gap_s,
            total_s=self.total_s,
        )


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
        description="After how long Ray is asked again for the best replica, once a place has "
        "served four calls.",
    )
    session_s: float = Field(
        600.0,
        ge=0,
        le=DAY_S,
        description="How long the replica of a session's last call (`x-session-id`) is preferred "
        "for the next one. 0: never.",
    )


class RuntimeConfig(Config):
    """The whole `user_config` of the Router."""

    routing: RoutingConfig = Field(default_factory=RoutingConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    bodies: BodiesConfig = Field(default_factory=BodiesConfig)
    deadlines: DeadlinesConfig = Field(default_factory=DeadlinesConfig)
    leases: LeaseConfig = Field(default_factory=LeaseConfig)
    feedback: FeedbackConfig = Field(default_factory=FeedbackConfig)

    @property
    def watches_load(self) -> bool:
        """Whether Routers ask the engines for their load.

        Labels are made while other Routers have no calls either, which the engines' load tells.
        """
        return self.routing.load.watched or self.feedback.directory is not None

    def with_body_bytes(self, bytes_max: int) -> RuntimeConfig:
        """The same, with a limit of the body's length where none is given."""
        if self.limits.given_body_bytes_max is not None:
            return self
        limits = self.limits.model_copy(update={"given_body_bytes_max": bytes_max})
        return self.model_copy(update={"limits": limits})
