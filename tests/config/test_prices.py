"""Prices: each belongs to a tier or a model that exists, and applies."""

from __future__ import annotations

import pytest

from serve_app.cli.check import find_unseen_prices
from serve_app.config.app import AppConfig, check_runtime
from serve_app.config.prices import PricesConfig
from serve_app.config.reader import ServeConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig

TIERS = (
    TierConfig(name="fast", model_id="small", engine={"enable_prompt_tokens_details": True}),
    TierConfig(name="strong", model_id="large"),
)
PRICE = {"input": 1, "output": 2}
CACHED = {**PRICE, "cached_input": 0.1}


def runtime_with(prices: object) -> RuntimeConfig:
    return RuntimeConfig(prices=PricesConfig.model_validate(prices))


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        ({"tiers": {"fats": PRICE}}, r"prices.tiers: 'fats' .*\(did you mean 'fast'"),
        ({"models": {"strong": PRICE}}, "prices.models: 'strong' is none of small, large$"),
        ({"models": {"large": PRICE}, "tiers": {"fast": PRICE}}, None),
    ],
)
def test_prices_of_nothing(prices: object, words: str | None) -> None:
    """A misspelt name would make calls free."""
    if words is None:
        check_runtime(runtime_with(prices), TIERS)
    else:
        with pytest.raises(ValueError, match=words):
            check_runtime(runtime_with(prices), TIERS)


@pytest.mark.parametrize(
    ("prices", "found"),
    [
        ({"tiers": {"fast": PRICE, "strong": PRICE}}, []),
        ({"tiers": {"fast": CACHED}, "models": {"large": PRICE}}, []),
        ({"tiers": {"fast": PRICE}}, ["prices.tiers.strong"]),
        (
            {"tiers": {"fast": CACHED}, "models": {"large": CACHED}},
            ["prices.tiers.strong.cached_input"],
        ),
    ],
)
def test_prices_that_do_not_apply(prices: object, found: list[str]) -> None:
    """A cached price needs an engine that reports cached tokens; both faults are warnings."""
    app = AppConfig(tiers=TIERS)
    config = ServeConfig({}, app, runtime_with(prices))
    findings = list(find_unseen_prices(config))
    assert [finding.where for finding in findings] == found
    assert not any(finding.fatal for finding in findings)
