"""What the Router seeks when every tier's chance to answer well is known."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.prices import PRICE_MAX, PricesConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Objective


class ObjectivesConfig(Config):
    """The budget, the floor and the weights of `routing.objective`."""

    cost_max: float | None = Field(
        None,
        gt=0,
        le=PRICE_MAX,
        description="For `quality`: the mean cost of a call, in the currency of `prices`. None: "
        "the budget is the share of `strong_ratio_target`.",
    )
    quality_min: float = Field(
        0.95,
        ge=0,
        le=1,
        description="For `cost`: the expected quality of all calls, as a share of what the best "
        "tier for each call is expected to reach.",
    )
    money_weight: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="For `weighted`: how much of P(right) one unit of the currency is worth.",
    )
    time_weight: float = Field(
        0.0,
        ge=0,
        le=1e3,
        description="For every objective: how much of P(right) one second until the end of an "
        "answer is worth.",
    )
    answer_tokens_assumed: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Tokens of an answer that a tier is expected to generate, until the Router "
        "has seen answers of the tier.",
    )


def find_missing(
    objective: Objective,
    objectives: ObjectivesConfig,
    strong_ratio_target: float | None,
    prices: PricesConfig | None,
    tiers: Sequence[TierConfig],
) -> str | None:
    """The key that an objective lacks, None if it lacks none. `tiers` are those that generate."""
    costs = objectives.cost_max is not None, True, objectives.money_weight > 0
    needs_prices = dict(zip(Objective, costs, strict=True))[objective]
    if objective is Objective.QUALITY and not needs_prices and strong_ratio_target is None:
        return "routing.objectives.cost_max or routing.strong_ratio_target"
    if objective is Objective.WEIGHTED and not (needs_prices or objectives.time_weight):
        return "routing.objectives.money_weight or routing.objectives.time_weight"
    if not needs_prices:
        return None
    unpriced = (t for t in tiers if prices is None or not prices.has(t.name, t.model_id))
    return next((f"prices.tiers.{tier.name}" for tier in unpriced), None)
