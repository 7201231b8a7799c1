"""The cost of a tier compared with rented GPUs and with tokens from an API, and the break-even.

A GPU costs money in every hour, a token only when it is used. GPUs are therefore cheaper from a
certain share of their capacity on. The share does not depend on the number of replicas.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from serve_app.offline.planning.cost import HOURS_A_MONTH
from serve_app.offline.planning.plan import Plan, TierPlan
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.roofline import Workload

TABLE = Path(__file__).with_name("prices.toml")
MILLION = 1e6
HOUR_S = 3600.0
GIVEN = "your price"


@dataclass(frozen=True)
class Rent:
    """GPUs by the hour."""

    card: str
    offer: str
    per_gpu_hour: float
    read: date | None
    """When the price was read; None if the command line gave it."""
    source: str


@dataclass(frozen=True)
class Tokens:
    """The price of a million tokens. `model` None: another model than the tier's."""

    offer: str
    prompt: float
    output: float
    read: date | None
    source: str
    model: str | None = None

    def price_call(self, load: Workload) -> float:
        """Of one typical call."""
        return (load.prompt_tokens * self.prompt + load.output_tokens * self.output) / MILLION


@dataclass(frozen=True)
class RentCost:
    """A tier on rented or owned GPUs."""

    rent: Rent
    month_min: float
    """The cost with the fewest replicas, used or not."""
    output_million: float
    """The cost of a million output tokens with their prompts, at the plan's utilisation."""


@dataclass(frozen=True)
class TokensCost:
    """The cost of the same calls if tokens are bought."""

    tokens: Tokens
    output_million: float
    """Of a million output tokens with their prompts."""
    pays_from_ratio: float
    """The share of a full replica's calls from which on the GPUs are cheaper; above 1: never."""
    pays_from_calls_per_s: float
    """The same share in calls per second, with the fewest replicas."""


@dataclass(frozen=True)
class Comparison:
    """The comparison for one tier. Tokens are compared with the first rent: yours, or the
    cheapest."""

    tier: str
    rents: list[RentCost]
    tokens: list[TokensCost]


def compare_prices(plan: Plan, given: Sequence[Tokens] = ()) -> list[Comparison]:
    """Compare every tier whose speed is known; `given` prices of tokens replace the shipped
    prices."""
    return [
        comparison for tier in plan.tiers if (comparison := _compare(plan, tier, given)) is not None
    ]


def _compare(plan: Plan, tier: TierPlan, given: Sequence[Tokens]) -> Comparison | None:
    variant = tier.variants[0]
    if tier.card is None or variant.cost is None or variant.rates is None:
        return None
    hours = variant.cost.gpu_hours_a_million
    rents = [
        RentCost(
            rent=rent,
            month_min=rent.per_gpu_hour * HOURS_A_MONTH * tier.gpus * tier.replicas_min,
            output_million=rent.per_gpu_hour * hours,
        )
        for rent in _choose_rents(plan, tier.card.name)
    ]
    full_per_s = variant.rates.calls_per_s(plan.load)
    replica_hour = rents[0].rent.per_gpu_hour * tier.gpus if rents else None
    tokens = [
        _price_tokens(offer, plan.load, tier.replicas_min, full_per_s, replica_hour)
        for offer in given or read_tokens(tier.model)
    ]
    return Comparison(tier.tier, rents, tokens)


def _choose_rents(plan: Plan, card: str) -> list[Rent]:
    """Yours first, then the cheapest."""
    listed = sorted(read_rents(card), key=lambda rent: rent.per_gpu_hour)
    if plan.price_per_gpu_hour is None:
        return listed
    return [Rent(card, GIVEN, plan.price_per_gpu_hour, None, "given"), *listed]


def _price_tokens(
    tokens: Tokens,
    load: Workload,
    replicas_min: int,
    full_per_s: float,
    replica_hour: float | None,
) -> TokensCost:
    call = tokens.price_call(load)
    sold_hour = call * full_per_s * HOUR_S
    paid = float("inf") if replica_hour is None or sold_hour == 0 else replica_hour / sold_hour
    return TokensCost(
        tokens=tokens,
        output_million=call * MILLION / load.output_tokens,
        pays_from_ratio=paid,
        pays_from_calls_per_s=paid * full_per_s * max(1, replicas_min),
    )


def parse_tokens(text: str) -> Tokens:
    """A price as on the command line: `NAME=PROMPT/OUTPUT`, by the million tokens.

    Raises:
        PlanningFailed: it is none.
    """
    name, _, prices = text.partition("=")
    prompt, slash, output = prices.partition("/")
    try:
        numbers = float(prompt), float(output)
    except ValueError:
        numbers = (-1.0, -1.0)
    if not name or not slash or not all(0 <= number < MILLION for number in numbers):
        raise PlanningFailed(
            f"--api-price: '{text}' is not NAME=PROMPT/OUTPUT, prices of a million tokens each"
        )
    return Tokens(name, *numbers, None, "given")


def read_rents(card: str) -> Iterator[Rent]:
    """The shipped prices of a card."""
    return (Rent(**row) for row in _read_table()["rent"] if row["card"] == card)


def read_tokens(model: str) -> Iterator[Tokens]:
    """The shipped prices of a model, and those of models that are compared with any."""
    return (Tokens(**row) for row in _read_table()["tokens"] if row.get("model") in (model, None))


@cache
def _read_table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))
