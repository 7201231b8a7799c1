"""Limits of Routers and of callers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from serve_app.config.base import Config
from serve_app.config.prices import PricesConfig
from serve_app.config.redis import RedisConfig
from serve_app.config.tiers import DAY_S, NAME_PATTERN

BODY_BYTES_UNKNOWN = 8 * 1024 * 1024
"""The limit of a body if the context length of a tier is not known."""
COUNT_MAX = 1_000_000_000_000
MONEY_MAX = 1_000_000.0

Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]
Money = Annotated[float, Field(ge=0, le=MONEY_MAX)]
LimitedTier = Annotated[str, Field(pattern=NAME_PATTERN)]
SubjectKind = Literal["key", "user", "tenant"]


class LimitAmountsConfig(Config):
    """How much of each measure a subject may use. None: no limit."""

    requests_per_min: Count | None = Field(
        None, description="Requests in any 60 seconds. None: no limit."
    )
    tokens_per_min: Count | None = Field(
        None, description="Prompt and output tokens in any 60 seconds. None: no limit."
    )
    calls_at_a_time: Count | None = Field(
        None, description="Calls that run at the same time. None: no limit."
    )
    tokens_per_day: Count | None = Field(
        None, description="Prompt and output tokens in a calendar day, UTC. None: no limit."
    )
    tokens_per_month: Count | None = Field(
        None, description="Prompt and output tokens in a calendar month, UTC. None: no limit."
    )
    money_per_day: Money | None = Field(
        None,
        description="Cost in a calendar day, UTC, in units of `prices.currency`. None: no limit.",
    )
    money_per_month: Money | None = Field(
        None,
        description="Cost in a calendar month, UTC, in units of `prices.currency`. None: no limit.",
    )

    @property
    def amounts(self) -> dict[str, int | float]:
        """The limits that are set, by the name of their key."""
        found = {name: getattr(self, name) for name in LimitAmountsConfig.model_fields}
        return {name: amount for name, amount in found.items() if amount is not None}


class LimitRuleConfig(LimitAmountsConfig):
    """The limits of every key, user or tenant."""

    per: SubjectKind = Field(
        description="The subject that has the limits: each API key, each user, or each tenant. A "
        "rule does not apply to a caller that has no key or no user."
    )
    tier: LimitedTier | None = Field(
        None, description="Only calls to this tier count. None: all calls count."
    )
    overrides: dict[str, LimitAmountsConfig] = Field(
        default_factory=dict,
        description="Other limits for named subjects: the id of a key, `tenant/user` for a user, "
        "or the name of a tenant. A key that is left out keeps the limit of the rule; `null` "
        "removes it.",
    )

    def amounts_of(self, subject: str) -> dict[str, int | float]:
        """The limits of one subject, by the name of their key."""
        override = self.overrides.get(subject)
        if override is None:
            return self.amounts
        kept = {k: v for k, v in self.amounts.items() if k not in override.model_fields_set}
        return kept | override.amounts

    @property
    def limits_money(self) -> bool:
        """Whether the rule or one of its overrides has a limit in money."""
        sets = [self.amounts, *(override.amounts for override in self.overrides.values())]
        return any(name.startswith("money") for amounts in sets for name in amounts)

    @model_validator(mode="after")
    def _limits(self) -> LimitRuleConfig:
        if not self.amounts and not any(one.amounts for one in self.overrides.values()):
            names = ", ".join(LimitAmountsConfig.model_fields)
            raise ValueError(f"the rule sets no limit; set at least one of {names}")
        return self


class LimitStoreConfig(Config):
    """Where the counters are kept that all Routers share."""

    redis: RedisConfig | None = Field(
        None,
        description="The Redis with the counters. None: one process in the Ray cluster owns the "
        "counters (`directory`).",
    )
    directory: str | None = Field(
        None,
        min_length=1,
        description="Directory for the journal of the counters, an absolute path on the head node "
        "of the Ray cluster, where their owner runs. Required without `redis`.",
    )
    deadline_s: float = Field(
        0.05,
        gt=0,
        le=10,
        description="Time that a call waits for the counters; after that `on_failure` decides.",
    )

    @field_validator("directory")
    @classmethod
    def _absolute(cls, directory: str | None) -> str | None:
        if directory is not None and not Path(directory).is_absolute():
            raise ValueError(f"'{directory}' is relative; write an absolute path")
        return directory

    @model_validator(mode="after")
    def _one_place(self) -> LimitStoreConfig:
        if (self.redis is None) == (self.directory is None):
            raise ValueError(
                "set either `redis`, or `directory` for counters without Redis, and not both"
            )
        return self


class LimitsConfig(Config):
    """Limits of one Router replica, and of callers over all Router replicas."""

    given_body_bytes_max: int | None = Field(
        None,
        alias="body_bytes_max",
        gt=0,
        le=1024**3,
        description="Longest request body; a longer body gets 413. None: computed from the "
        "longest context of any tier, at 10 bytes per token, plus 256 KiB for everything else, "
        "plus 20 MiB for images if a tier's `modalities` has `image`. A tier whose "
        "`engine` has no `max_model_len` counts 8 MiB. A tier that embeds or scores counts "
        "`bodies.counts.input_tokens_max` instead of its context.",
    )
    held_body_bytes_max: int = Field(
        512 * 1024**2,
        ge=1024**2,
        le=1024**4,
        description="Bytes of all request bodies that one Router replica holds, of those that it "
        "still reads and of calls in flight. A body of more than 16 KiB that would exceed it gets "
        "429. The Router needs several times as much memory, because it also parses the bodies.",
    )
    calls_max: int = Field(
        1024,
        gt=0,
        le=65536,
        description="Calls in flight in one Router replica; further calls get 429.",
    )
    rules: tuple[LimitRuleConfig, ...] = Field(
        (), max_length=64, description="Limits of callers. All rules that apply must allow a call."
    )
    store: LimitStoreConfig | None = Field(
        None, description="Where the counters of `rules` are kept. Required if there are rules."
    )
    on_failure: Literal["closed", "open"] = Field(
        "closed",
        description="What happens to calls while the counters cannot be reached. closed: 503 "
        "`limits_unavailable`. open: calls pass, and are charged once the counters can be reached.",
    )
    unbounded_output_tokens: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Output tokens that are reserved for a call without a bound of its own. None: "
        "the rest of the tier's `max_model_len`. Lower it if most answers are short: what an "
        "answer uses beyond the reserved tokens is charged when the call ends.",
    )
    reservation_s: float = Field(
        60.0,
        ge=5,
        le=DAY_S,
        description="Time after which the places of `calls_at_a_time` that a dead Router held are "
        "free again.",
    )

    @property
    def body_bytes_max(self) -> int:
        """The limit in effect."""
        return self.given_body_bytes_max or BODY_BYTES_UNKNOWN

    @property
    def limits_callers(self) -> bool:
        """Whether any limit holds for callers, beside the limits of the Router itself."""
        return bool(self.rules)

    @model_validator(mode="after")
    def _readable(self) -> LimitsConfig:
        if (self.given_body_bytes_max or 0) > self.held_body_bytes_max:
            raise ValueError(
                f"held_body_bytes_max: {self.held_body_bytes_max} is less than body_bytes_max"
            )
        return self

    @model_validator(mode="after")
    def _stored(self) -> LimitsConfig:
        if self.rules and self.store is None:
            raise ValueError(
                "rules: the counters need a place; set `limits.store: {redis: {url: ...}}` or "
                "`limits.store: {directory: ...}`"
            )
        places = [(rule.per, rule.tier) for rule in self.rules]
        for place in places:
            if places.count(place) > 1:
                tier = f" and tier '{place[1]}'" if place[1] else ""
                raise ValueError(f"rules: two rules are per {place[0]}{tier}; write one")
        return self


def check_limits(limits: LimitsConfig, tiers: list[str], prices: PricesConfig | None) -> None:
    """Check the part of the limits that names other parts of the config.

    Raises:
        ValueError: a rule names a tier that does not exist, or limits money without prices.
    """
    for number, rule in enumerate(limits.rules):
        if rule.tier is not None and rule.tier not in tiers:
            raise ValueError(
                f"limits.rules.{number}.tier: '{rule.tier}' is none of the tiers {', '.join(tiers)}"
            )
        if rule.limits_money and prices is None:
            raise ValueError(
                f"limits.rules.{number}: a limit in money needs `prices`, and there are none"
            )
