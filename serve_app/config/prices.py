"""What the tokens of each tier cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.tiers import NAME_PATTERN
from serve_app.core.money import FREE, NANOS_PER_PRICE, Price

PRICE_MAX = 1_000_000.0

Amount = Annotated[float, Field(ge=0, le=PRICE_MAX)]
TierName = Annotated[str, Field(pattern=NAME_PATTERN)]


class PriceConfig(Config):
    """The price of one tier's or one model's tokens, in units of the currency a million tokens."""

    input: Amount = Field(description="Price of a million tokens of prompts.")
    cached_input: Amount | None = Field(
        None,
        description="Price of a million tokens of prompts that the engine's prefix cache held. "
        "None: the price of `input`.",
    )
    output: Amount = Field(description="Price of a million generated tokens.")

    @property
    def price(self) -> Price:
        """The price in nanos a token."""
        cached = self.input if self.cached_input is None else self.cached_input
        return Price(_nanos(self.input), _nanos(cached), _nanos(self.output))


class PricesConfig(Config):
    """The prices that limits, audit log, `calibrate` and metrics use."""

    currency: str = Field(
        "EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217 code of the currency of all amounts."
    )
    tiers: dict[TierName, PriceConfig] = Field(
        default_factory=dict, description="Price by tier. A tier that is missing costs nothing."
    )
    models: dict[str, PriceConfig] = Field(
        default_factory=dict,
        description="Price by the id of a model or adapter; it goes before the price of the tier.",
    )

    def find(self, tier: str, model_id: str) -> Price:
        """The price of a model's tokens on its tier."""
        found = self._find(tier, model_id)
        return FREE if found is None else found.price

    def has(self, tier: str, model_id: str) -> bool:
        """Whether a model has a price on its tier."""
        return self._find(tier, model_id) is not None

    def _find(self, tier: str, model_id: str) -> PriceConfig | None:
        return self.models.get(model_id) or self.tiers.get(tier)


def _nanos(price: float) -> int:
    return round(price * NANOS_PER_PRICE)
