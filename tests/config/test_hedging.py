"""The config of hedging."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.config.app import check_runtime
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig

TIERS = (TierConfig(name="fast", model_id="m"), TierConfig(name="strong", model_id="n"))


def parse(hedging: dict[str, Any] | None) -> RuntimeConfig:
    runtime = RuntimeConfig.model_validate({"hedging": hedging})
    check_runtime(runtime, TIERS)
    return runtime


def test_nothing_is_hedged_by_default() -> None:
    """An operator asks for it, for all tiers or for some."""
    assert RuntimeConfig().hedging is None
    every, some = parse({}).hedging, parse({"tiers": ["strong"]}).hedging
    assert every is not None
    assert some is not None
    assert every.covers("fast")
    assert (some.covers("fast"), some.covers("strong")) == (False, True)


@pytest.mark.parametrize(
    ("hedging", "said"),
    [
        ({"tiers": ["fsat"]}, "hedging.tiers: 'fsat' is none of the tiers fast, strong"),
        ({"wait_s_min": 2, "wait_s_max": 1}, "wait_s_min: 2 is above 1"),
        ({"ratio_max": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_meant(hedging: dict[str, Any], said: str) -> None:
    """The error names the key."""
    with pytest.raises(ValueError, match=said):
        parse(hedging)
