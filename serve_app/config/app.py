"""The topology: the `args` of the application in a Serve config file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import Field, model_validator

from serve_app.config.access import check_access
from serve_app.config.base import Config
from serve_app.config.limits import BODY_BYTES_UNKNOWN, check_limits
from serve_app.config.objectives import find_missing
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import DAY_S, ReplicasConfig, TierConfig
from serve_app.config.variants import VariantConfig, check_variants, derive_tiers

BODY_BYTES_PER_TOKEN = 10
"""English text has 4 bytes per token; Chinese that is escaped in JSON (`\\u4e2d`) has 9."""
BODY_BYTES_REST = 256 * 1024
"""For schemas and all other parts that are not the prompt."""
BODY_BYTES_IMAGES = 20 * 1024 * 1024
THINKING_KEYS = frozenset({"reasoning_parser", "reasoning_config"})


class RouterReplicasConfig(ReplicasConfig):
    """A Router replica takes many calls and starts in seconds."""

    max: int = Field(4, ge=1, le=1024, description="The most replicas that may run.")
    target_ongoing_calls: float = Field(
        128.0, gt=0, le=65536, description="Calls in flight per replica: the target of autoscaling."
    )
    downscale_delay_s: float = Field(
        300.0,
        ge=0,
        le=DAY_S,
        description="How long supply must exceed demand before replicas are removed.",
    )


class RouterConfig(Config):
    """The Router deployment: the ingress that every call passes."""

    replicas: RouterReplicasConfig = Field(default_factory=RouterReplicasConfig)
    cpus: float = Field(
        1.0, ge=0, le=1024, description="CPUs that Ray reserves for one Router replica."
    )
    max_replicas_per_node: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Router replicas that one node may hold. 1: each Router replica has a node of "
        "its own, so a lost node takes at most one Router replica, and there are never more "
        "Router replicas than nodes. None: no limit.",
    )
    max_ongoing_calls: int = Field(
        2048,
        ge=1,
        le=65536,
        description="Concurrent calls that Ray lets into one Router replica. Keep it above "
        "`limits.calls_max`, so that callers get the 429 of serve-app and not Ray's.",
    )
    drain_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=DAY_S,
        description="Time that a Router replica which is being removed has to finish its streams. "
        "At least `deadlines.total_s`.",
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of the Router's processes."
    )


class AppConfig(Config):
    """Everything that `serve_app.app:build` needs."""

    tiers: tuple[TierConfig, ...] = Field(
        min_length=1, max_length=8, description="The models, weakest and cheapest first."
    )
    variants: tuple[VariantConfig, ...] = Field(
        (),
        max_length=8,
        description="Other engines for the tiers, which answer a share of their calls once "
        "`user_config` says so ([canary.md](canary.md)).",
    )
    router: RouterConfig = Field(default_factory=RouterConfig)
    runtime: RuntimeConfig = Field(
        default_factory=RuntimeConfig,
        description="Run-time config that the Router starts with; its `user_config` replaces it "
        "at run time.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> AppConfig:
        names = [
            name for tier in self.tiers for name in (*{tier.name, tier.model_id}, *tier.adapters)
        ]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tiers: '{name}' names more than one tier")
        self.check_runtime(self.runtime)
        return self

    @property
    def deployed(self) -> tuple[TierConfig, ...]:
        """The tiers and their variants: everything that has engines and replicas."""
        return (*self.tiers, *derive_tiers(self.tiers, self.variants))

    def check_runtime(self, runtime: RuntimeConfig) -> None:
        """Check the part of a runtime config that names tiers, variants and models.

        Raises:
            ValueError: a key names what does not exist, or what lacks an ability that is needed.
        """
        check_runtime(runtime, self.tiers)
        derive_tiers(self.tiers, self.variants)
        check_variants(runtime.variants, self.tiers, self.variants)


def check_runtime(runtime: RuntimeConfig, tiers: tuple[TierConfig, ...]) -> None:
    """Check the part of the runtime config that names tiers and models.

    Raises:
        ValueError: a key names a tier or model that does not exist, or a tier that lacks an ability
            that the key needs.
    """
    routing = runtime.routing
    generating = [tier.name for tier in tiers if "generate" in tier.tasks]
    for key in ("default_tier", "never_below", "never_above"):
        name = getattr(routing, key)
        if name is not None and name not in generating:
            raise ValueError(
                f"routing.{key}: '{name}' is none of the tiers that generate: "
                f"{', '.join(generating) or 'there are none'}"
            )
    if runtime.feedback.directory is not None and len(generating) < 2:
        raise ValueError(
            "feedback.directory: labels compare two tiers that generate, and there is "
            f"{'one' if generating else 'none'}"
        )
    _check_objective(runtime, [tier for tier in tiers if "generate" in tier.tasks])
    _check_hedging(runtime, tiers)
    _check_thinking(runtime, tiers)
    if runtime.access is not None:
        check_access(runtime.access, tiers)
    check_limits(runtime.limits, [tier.name for tier in tiers], runtime.prices)
    _check_prices(runtime, tiers)
    low, high = routing.never_below, routing.never_above
    if low and high and generating.index(low) > generating.index(high):
        raise ValueError(f"routing.never_below: '{low}' is stronger than never_above, '{high}'")


def _check_objective(runtime: RuntimeConfig, tiers: Sequence[TierConfig]) -> None:
    """An objective without its budget or prices would choose blindly."""
    routing = runtime.routing
    if routing.objective is None:
        return
    target = routing.strong_ratio_target
    lacks = find_missing(routing.objective, routing.objectives, target, runtime.prices, tiers)
    if lacks is not None:
        raise ValueError(f"routing.objective: '{routing.objective}' needs {lacks}")


def _check_prices(runtime: RuntimeConfig, tiers: tuple[TierConfig, ...]) -> None:
    """A price of a misspelt name would make calls free."""
    if runtime.prices is None:
        return
    names = [tier.name for tier in tiers]
    models = [model_id for tier in tiers for model_id in tier.model_ids]
    for key, priced, known in (
        ("prices.tiers", runtime.prices.tiers, names),
        ("prices.models", runtime.prices.models, models),
    ):
        for name in priced:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                raise ValueError(f"{key}: '{name}' is none of {', '.join(known)}{hint}")


def _check_hedging(runtime: RuntimeConfig, tiers: tuple[TierConfig, ...]) -> None:
    names = [tier.name for tier in tiers]
    hedged = runtime.hedging.tiers if runtime.hedging is not None else None
    for name in hedged or ():
        if name not in names:
            raise ValueError(f"hedging.tiers: '{name}' is none of the tiers {', '.join(names)}")


def _check_thinking(runtime: RuntimeConfig, tiers: tuple[TierConfig, ...]) -> None:
    """vLLM rejects a budget if it does not know how thoughts begin and end."""
    engines = {tier.name: tier.engine for tier in tiers}
    for name in runtime.bodies.thinking_tokens_max:
        if name not in engines:
            raise ValueError(
                f"bodies.thinking_tokens_max: '{name}' is none of the tiers {', '.join(engines)}"
            )
        if not engines[name].keys() & THINKING_KEYS:
            raise ValueError(
                f"bodies.thinking_tokens_max: the engine of {name} has no reasoning_parser, so "
                "vLLM would reject every call"
            )


def check_drains(config: AppConfig, runtime: RuntimeConfig) -> None:
    """Check that no drain is too short for a call that is still within its deadline.

    Raises:
        ValueError: names the key that is too short.
    """
    total_s = runtime.deadlines.total_s
    drains = {
        "router.drain_timeout_s": config.router.drain_timeout_s,
        **{f"tiers[{tier.name}].drain_timeout_s": tier.drain_timeout_s for tier in config.deployed},
    }
    for key, drain_s in drains.items():
        if drain_s < total_s:
            raise ValueError(
                f"{key}: {drain_s:g} is less than deadlines.total_s, {total_s:g}: each update "
                f"would cut calls before their deadline; set it to {total_s:g} or more, or lower "
                "deadlines.total_s"
            )


def complete_runtime(runtime: RuntimeConfig, tiers: tuple[TierConfig, ...]) -> RuntimeConfig:
    """The runtime config, with missing keys computed from the tiers."""
    texts_tokens = runtime.bodies.counts.input_tokens_max
    return runtime.with_body_bytes(max(_body_bytes(tier, texts_tokens) for tier in tiers))


def _body_bytes(tier: TierConfig, texts_tokens: int) -> int:
    """The longest body whose prompt fits into a tier's context, or whose texts are allowed."""
    images = BODY_BYTES_IMAGES if tier.takes_images else 0
    if "generate" not in tier.tasks:
        return BODY_BYTES_PER_TOKEN * texts_tokens + BODY_BYTES_REST + images
    if tier.max_model_len is None:
        return BODY_BYTES_UNKNOWN + images
    return BODY_BYTES_PER_TOKEN * tier.max_model_len + BODY_BYTES_REST + images
