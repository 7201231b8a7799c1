"""Variants: other engines that answer a share of a tier's calls under the tier's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from serve_app.config.base import Config
from serve_app.config.tiers import (
    NAME_PATTERN,
    PlacementConfig,
    TierConfig,
    TierReplicasConfig,
)

NAME_LENGTH_MAX = 32
SEPARATOR = "--"
"""Between the names of a tier and of its variant in the name of the variant's deployment."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Share = Annotated[float, Field(ge=0, le=1)]


class VariantConfig(Config):
    """Another engine for a tier: a model, a version, a quantisation or other engine arguments.

    A variant has replicas of its own. Each key that is not set has the tier's value.
    """

    tier: Name = Field(description="The tier whose calls the variant may answer.")
    name: Name = Field(
        description="Name of the variant, for example `next`. Its deployment is `tier-TIER--NAME`."
    )
    model_source: str | None = Field(None, description="Source of the weights.")
    sha256sums: str | dict[str, str] | None = Field(
        None, description="SHA-256 sums of the model's files; needed again with `model_source`."
    )
    accelerator_type: str | None = Field(None, description="Ray's name of the GPU.")
    engine: dict[str, JsonValue] | None = Field(
        None, description="Engine arguments, in place of all of the tier's."
    )
    env: dict[str, str] | None = Field(
        None, description="Environment variables, in place of all of the tier's."
    )
    placement: PlacementConfig | None = Field(None)
    replicas: TierReplicasConfig | None = Field(None)
    max_ongoing_calls: int | None = Field(
        None, ge=1, le=4096, description="Concurrent calls that one replica holds."
    )
    max_queued_calls: int | None = Field(
        None, ge=0, le=65536, description="Calls of one Router that may wait for the variant."
    )

    @property
    def deployed_name(self) -> str:
        """The name of the variant among all that is deployed."""
        return f"{self.tier}{SEPARATOR}{self.name}"


class RollbackConfig(Config):
    """When the incumbent takes all calls back from a variant ([canary.md](canary.md))."""

    worse_ratio_max: float = Field(
        1.5,
        ge=1,
        le=100,
        description="How many times as often as the incumbent's the variant's calls may end badly.",
    )
    false_alarm_ratio: float = Field(
        0.01,
        gt=0,
        le=0.5,
        description="Probability of rolling back a variant that is not worse, over its whole "
        "trial, however long it lasts.",
    )
    signals: tuple[Literal["faults", "slow", "disliked"], ...] = Field(
        ("faults", "slow", "disliked"),
        description="What counts as a bad end. faults: the engine failed. slow: the first token "
        "came later than `first_token_ratio_max` allows. disliked: `/v1/feedback` said that the "
        "answer was wrong.",
    )
    first_token_ratio_max: float = Field(
        1.5,
        ge=1,
        le=100,
        description="A first token is slow if it takes this many times the 95th percentile of the "
        "incumbent's latest 200.",
    )


class TierVariantsConfig(Config):
    """The shares of the variants of one tier. The incumbent has what they leave."""

    shares: dict[Name, Share] = Field(
        default_factory=dict,
        description="Share of the tier's calls for each variant, for example `{next: 0.1}`.",
    )
    shadows: dict[Name, Share] = Field(
        default_factory=dict,
        description="Share of the tier's calls that a variant answers as well, for each variant. "
        "Nobody sees these answers. They are sent only while the variant is idle enough.",
    )
    shadow_calls_max: int = Field(
        2, ge=1, le=1024, description="Shadow calls of one Router that may run at the same time."
    )
    sticky: Literal["session", "caller", "call"] = Field(
        "session",
        description="What stays with one variant. session: calls with the same `x-session-id`. "
        "caller: calls of one user, key or tenant, in this order. call: nothing.",
    )
    trial: str = Field(
        "",
        max_length=64,
        description="Any text. A new text begins a new trial: evidence and rollbacks are "
        "forgotten, and sessions and callers are drawn anew. `serve-app canary set` writes it.",
    )
    rollback: RollbackConfig | None = Field(
        default_factory=RollbackConfig,
        description="The automatic rollback. null: none.",
    )

    @field_validator("shares")
    @classmethod
    def _at_most_all(cls, shares: dict[str, float]) -> dict[str, float]:
        total = sum(shares.values())
        if total > 1 + 1e-9:
            parts = " + ".join(f"{share:g}" for share in shares.values())
            raise ValueError(
                f"{parts} is {total:g}; the shares of a tier's variants must not be "
                "above 1 together"
            )
        return shares

    @model_validator(mode="after")
    def _comparable(self) -> TierVariantsConfig:
        if self.incumbent_share == 0 and "rollback" in self.model_fields_set and self.rollback:
            raise ValueError(
                "rollback: the shares leave no call for the incumbent, so there is nothing to "
                "compare with; lower a share, or leave rollback out"
            )
        return self

    @property
    def incumbent_share(self) -> float:
        """The share of the calls that the tier's own engine answers."""
        left = 1 - sum(self.shares.values())
        return left if left > 1e-9 else 0.0


def derive_tier(tier: TierConfig, variant: VariantConfig) -> TierConfig:
    """The variant as a tier of its own, for everything that is about engines and replicas.

    Raises:
        ValueError: the variant's keys do not go together with the tier's.
    """
    own: dict[str, Any] = {
        key: getattr(variant, key)
        for key in variant.model_fields_set - {"tier", "name"}
        if getattr(variant, key) is not None
    }
    if "model_source" in own:
        own.setdefault("sha256sums", None)
    kept = {name: getattr(tier, name) for name in tier.model_fields_set}
    return TierConfig(**{**kept, **own, "name": variant.deployed_name})


def derive_tiers(
    tiers: Sequence[TierConfig], variants: Sequence[VariantConfig]
) -> tuple[TierConfig, ...]:
    """Every variant as a tier of its own.

    Raises:
        ValueError: a variant is there twice, is of no tier, or cannot be deployed.
    """
    known = {tier.name: tier for tier in tiers}
    derived: dict[str, TierConfig] = {}
    for variant in variants:
        where = f"variants[{variant.name}]"
        if variant.tier not in known:
            raise ValueError(f"{where}.tier: '{variant.tier}' is none of {', '.join(known)}")
        name = variant.deployed_name
        if name in derived or name in known:
            raise ValueError(f"{where}: '{name}' is there twice")
        if len(name) > NAME_LENGTH_MAX:
            raise ValueError(
                f"{where}.name: '{name}' has {len(name)} characters; at most {NAME_LENGTH_MAX} "
                "are possible"
            )
        derived[name] = derive_tier(known[variant.tier], variant)
    return tuple(derived.values())


def check_variants(
    asked: Mapping[str, TierVariantsConfig],
    tiers: Sequence[TierConfig],
    variants: Sequence[VariantConfig],
) -> None:
    """Check the names in the run-time config.

    Raises:
        ValueError: a tier or a variant does not exist.
    """
    names = {tier.name: [one.name for one in variants if one.tier == tier.name] for tier in tiers}
    for tier, config in asked.items():
        if tier not in names:
            raise ValueError(f"variants: '{tier}' is none of the tiers {', '.join(names)}")
        for key, shares in (("shares", config.shares), ("shadows", config.shadows)):
            for name in shares:
                if name not in names[tier]:
                    found = ", ".join(names[tier]) or "none; write it into args.variants"
                    raise ValueError(
                        f"variants.{tier}.{key}: '{name}' is no variant of {tier}; there is {found}"
                    )
