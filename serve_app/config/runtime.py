"""The Router's `user_config`: everything that changes without a restart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve_app.config.access import AccessConfig
from serve_app.config.audit import AuditConfig
from serve_app.config.base import Config
from serve_app.config.batches import BatchesConfig
from serve_app.config.bodies import BodiesConfig
from serve_app.config.cache import CacheConfig
from serve_app.config.cascade import CascadeConfig
from serve_app.config.fairness import FairnessConfig
from serve_app.config.feedback import FeedbackConfig
from serve_app.config.hedging import HedgingConfig
from serve_app.config.limits import LimitsConfig
from serve_app.config.objectives import ObjectivesConfig
from serve_app.config.pages import PagesConfig
from serve_app.config.prices import PricesConfig
from serve_app.config.tiers import DAY_S, HOUR_S, NAME_PATTERN
from serve_app.config.traces import TracesConfig
from serve_app.config.variants import TierVariantsConfig
from serve_app.core.call import Objective
from serve_app.core.deadlines import Deadlines

Score = Annotated[float, Field(ge=0, le=1)]


TierName = Annotated[str, Field(pattern=NAME_PATTERN)]


class LoadConfig(Config):
    """How the load of the strongest tier moves calls whose score is near the threshold."""

    first_token_target_s: float | None = Field(
        None,
        gt=0,
        le=HOUR_S,
        description="The strongest tier is busy if the estimated wait for a first token there is "
        "longer than this. None: the wait is ignored.",
    )
    kv_free_ratio_min: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The strongest tier is also busy if the mean free part of its engines' KV "
        "caches is below this ratio. 0: the KV caches are ignored.",
    )
    busy_score_band: float = Field(
        0.15,
        ge=0,
        le=1,
        description="While the strongest tier is busy, calls whose score is less than this above "
        "the threshold go to the next weaker tier.",
    )
    idle_score_band: float = Field(
        0.0,
        ge=0,
        le=1,
        description="While the strongest tier is idle, calls whose score is at most this below "
        "the threshold go to the strongest tier. 0: no such calls.",
    )
    idle_ongoing_max: float = Field(
        0.0,
        ge=0,
        le=65536,
        description="The strongest tier counts as idle while its replicas hold at most this many "
        "calls each, on average.",
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
        description="Calls with at least this complexity score go to the strongest tier. With "
        "more than two tiers, the range below it is divided evenly among the other tiers.",
    )
    fast_prompt_tokens_max: int = Field(
        8192,
        gt=0,
        le=10_000_000,
        description="A call with more estimated prompt tokens than this leaves the weakest tier, "
        "whatever its score.",
    )
    default_tier: TierName | None = Field(
        None,
        description="Send every `auto` call to this tier without scoring it. None: route by "
        "complexity.",
    )
    scorer: Literal["heuristic", "learned"] = Field(
        "learned",
        description="The scorer of prompts: weights learned from labelled calls, or the "
        "hand-weighted heuristic.",
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="File with the weights of the learned scorer, written by `serve-app learn`; "
        "every Router replica must be able to read it. None: the weights that come with serve-app.",
    )
    strong_ratio_target: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of `auto` calls that go to the strongest tier by their score. The "
        "Router starts at `strong_score_min` and moves the threshold, so that the share holds "
        "while the traffic changes. None: `strong_score_min` stays the threshold. `serve-app "
        "calibrate` prints the cost and quality of each share.",
    )
    strong_score_min_bounds: tuple[Score, Score] = Field(
        (0.0, 1.0),
        description="Lowest and highest threshold that `strong_ratio_target` may set. At a bound, "
        "the Router misses the share: it neither keeps harder calls from the strongest tier nor "
        "sends easier calls there.",
    )
    strong_ratio_window: int = Field(
        500,
        ge=200,
        le=100_000,
        description="Number of newest scores from which the moving threshold and the drift are "
        "computed.",
    )
    never_below: TierName | None = Field(
        None,
        description="No `auto` call goes to a weaker tier than this tier. The header "
        "`x-route-never-below` can narrow the limit for one call.",
    )
    never_above: TierName | None = Field(
        None,
        description="No `auto` call goes to a stronger tier than this tier. The header "
        "`x-route-never-above` can narrow the limit for one call.",
    )
    fallback: bool = Field(
        True,
        description="Send an `auto` call to another tier if its tier is down or full. The answer "
        "then has the header `x-route-reason: fallback`.",
    )
    fallback_after_s: float = Field(
        2.0,
        gt=0,
        le=HOUR_S,
        description="Time that an `auto` call waits for a tier on which its Router has no place "
        "at all. After that the tier counts as down, until one of its replicas can be reached.",
    )
    policy: Literal["complexity", "cascade"] = Field(
        "complexity",
        description="How an `auto` call gets its tier if no other rule applies. complexity: by "
        "the prompt alone. cascade: also by the confidence of the answer that the weakest tier "
        "begins. The header `x-route-policy` overrides it for one call.",
    )
    objective: Objective | None = Field(
        None,
        description="Choose among all tiers by the P(right) of each, which the weights must have a "
        "head for. quality: the best answers within the budget. cost: the cheapest tier, at a "
        "floor of quality. weighted: by a sum of quality, money and time. The header "
        "`x-route-objective` sets it for one call. None: the score and the threshold decide.",
    )
    objectives: ObjectivesConfig = Field(default_factory=ObjectivesConfig)
    residency_weight: float = Field(
        0.0,
        ge=0,
        le=10,
        description="How much of a score one second of a GPU is worth that the strongest tier's "
        "prefix caches would save more than the weakest tier's; at most one second counts. So a "
        "conversation rather stays on its tier. Needs tiers with `replica_choice: prefix`. 0: "
        "nothing.",
    )
    cascade: CascadeConfig = Field(default_factory=CascadeConfig)
    load: LoadConfig = Field(default_factory=LoadConfig)

    @model_validator(mode="after")
    def _ordered(self) -> RoutingConfig:
        low, high = self.strong_score_min_bounds
        if low > high:
            raise ValueError(f"strong_score_min_bounds: {low:g} is above {high:g}")
        if self.objective is not None and self.scorer == "heuristic":
            raise ValueError(
                "objective: the heuristic says nothing of a tier's chance; use learned"
            )
        return self


class DeadlinesConfig(Config):
    """How long a call may take, from its arrival and across all tiers that are tried."""

    lease_s: float = Field(
        30.0,
        gt=0,
        le=HOUR_S,
        description="Total time that a call may wait for a free place on a replica; then 503.",
    )
    first_token_s: float | None = Field(
        None,
        gt=0,
        le=HOUR_S,
        description="Time until the first token. A call that would miss it by the estimate of the "
        "tier goes to another tier, if it may, or is rejected at once with 503 and `Retry-After`. "
        "The header `x-deadline-ms` can shorten it for one call. With autoscaling, use the joint "
        "policy, which alone sees rejected calls. None: calls wait.",
    )
    first_byte_s: float = Field(
        120.0,
        gt=0,
        le=HOUR_S,
        description="Time until the first byte of a streamed answer, including waits for places; "
        "then 504.",
    )
    gap_s: float = Field(
        60.0,
        gt=0,
        le=HOUR_S,
        description="Time between two chunks of a stream; then the stream is aborted.",
    )
    total_s: float = Field(
        3600.0,
        gt=0,
        le=DAY_S,
        description="Time for the whole call, until the client has the last byte. It also ends "
        "the call of a client that reads too slowly.",
    )

    def start(self, now: float) -> Deadlines:
        """The deadlines of a call that arrives now, in seconds of the event loop's clock."""
        return Deadlines(
            now,
            place_s=self.lease_s,
            first_byte_s=self.first_byte_s,
            gap_s=self.gap_s,
            total_s=self.total_s,
            first_token_s=self.first_token_s,
        )


class LeaseConfig(Config):
    """How a Router holds places on replicas."""

    reuse_s: float = Field(
        0.25,
        ge=0,
        le=0.9,
        description="Time that a place is kept for the next call after a call has ended. 0: every "
        "call asks Ray for a replica.",
    )
    age_max_s: float = Field(
        2.0,
        gt=0,
        le=30,
        description="After this time the Router asks Ray again for the best replica, once a place "
        "has served four calls.",
    )
    session_s: float = Field(
        600.0,
        ge=0,
        le=DAY_S,
        description="Time for which a session's next call (`x-session-id`) prefers the replica of "
        "the session's last call. 0: never.",
    )


class RetriesConfig(Config):
    """How many calls a Router may send a second time, to another replica of the tier."""

    ratio_max: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Part of a retry that each call adds to the budget. A call whose replica has "
        "failed is sent to another replica only if a retry is left.",
    )
    spare: int = Field(
        100,
        ge=0,
        le=65536,
        description="The most retries that the budget holds, and holds at first. A replica that "
        "dies fails all calls that wait there for their first byte at once, so it should not be "
        "less than `max_ongoing_calls`.",
    )


class RuntimeConfig(Config):
    """The whole `user_config` of the Router."""

    routing: RoutingConfig = Field(default_factory=RoutingConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    bodies: BodiesConfig = Field(default_factory=BodiesConfig)
    deadlines: DeadlinesConfig = Field(default_factory=DeadlinesConfig)
    leases: LeaseConfig = Field(default_factory=LeaseConfig)
    retries: RetriesConfig = Field(default_factory=RetriesConfig)
    hedging: HedgingConfig | None = Field(
        None,
        description="A second attempt of streamed calls whose first token is late. None: no call "
        "is sent to two replicas.",
    )
    feedback: FeedbackConfig = Field(default_factory=FeedbackConfig)
    variants: dict[TierName, TierVariantsConfig] = Field(
        default_factory=dict,
        description="The shares of the variants, for each tier ([canary.md](canary.md)).",
    )
    fairness: FairnessConfig | None = Field(
        None,
        description="Whose waiting calls come first. None: the calls that have waited for longest.",
    )
    access: AccessConfig | None = Field(
        None, description="Who may call. None: whoever reaches the port may call."
    )
    cache: CacheConfig | None = Field(
        None, description="The cache of whole answers. None: every call goes to an engine."
    )
    audit: AuditConfig | None = Field(
        None, description="The audit log. None: calls are in the access log only."
    )
    batches: BatchesConfig | None = Field(
        None,
        description="Files and batches of calls ([batches.md](batches.md)). None: there are none.",
    )
    traces: TracesConfig | None = Field(
        None, description="Traces of calls by OpenTelemetry. None: there are none."
    )
    prices: PricesConfig | None = Field(
        None, description="What tokens cost. None: no amounts of money are computed."
    )
    pages: PagesConfig = Field(default_factory=PagesConfig)

    @property
    def watches_load(self) -> bool:
        """Whether Routers measure the waits for first tokens.

        Label calls and the lines of batches run only in what the calls of all Routers leave; the
        engines' load shows that.
        """
        return (
            self.routing.load.watched
            or self.routing.objectives.time_weight > 0
            or self.feedback.directory is not None
            or self.batches is not None
        )

    def with_body_bytes(self, bytes_max: int) -> RuntimeConfig:
        """The same config, with this limit of a body's length if the config sets none."""
        if self.limits.given_body_bytes_max is not None:
            return self
        limits = self.limits.model_copy(update={"given_body_bytes_max": bytes_max})
        return self.model_copy(update={"limits": limits})
