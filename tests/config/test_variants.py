"""Variants in a config: what they inherit, and which mistakes `check` names."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config.app import AppConfig, check_drains
from serve_app.config.variants import TierVariantsConfig

TIERS: list[dict[str, Any]] = [
    {
        "name": "fast",
        "model_id": "m-fast",
        "model_source": "/models/fast",
        "sha256sums": "SHA256SUMS",
        "accelerator_type": "H100",
        "engine": {"max_model_len": 8192},
        "max_ongoing_calls": 32,
    },
    {"name": "strong", "model_id": "m-strong"},
]


def config(*variants: dict[str, Any], **runtime: Any) -> AppConfig:
    return AppConfig.model_validate({"tiers": TIERS, "variants": variants, "runtime": runtime})


def variant(**keys: Any) -> dict[str, Any]:
    return {"tier": "fast", "name": "next", **keys}


def test_a_variant_has_the_values_of_its_tier() -> None:
    """Each key of its own replaces the tier's; other weights have other sums."""
    app = config(variant(model_source="/models/next", engine={"quantization": "fp8"}))
    fast, strong, derived = app.deployed
    assert (fast.name, strong.name) == ("fast", "strong")
    assert derived.name == "fast--next"
    assert derived.model_id == "m-fast"
    assert derived.source == "/models/next"
    assert derived.engine == {"quantization": "fp8"}
    assert derived.sha256sums is None
    assert derived.accelerator_type == "H100"
    assert derived.max_ongoing_calls == 32


def test_the_same_weights_keep_their_sums() -> None:
    """A variant of the engine's arguments alone."""
    assert config(variant(engine={})).deployed[-1].sha256sums == "SHA256SUMS"


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([variant(tier="fats")], r"variants\[next\].tier: 'fats' is none of fast, strong"),
        ([variant(), variant()], r"'fast--next' is there twice"),
        ([variant(name="n" * 31)], r"at most 32"),
        ([variant(engine={"tensor_parallel_size": 16})], r"gpus_per_node"),
        ([variant(nme="x")], r"nme"),
        ([variant(name="Next")], r"name"),
    ],
)
def test_a_wrong_variant_is_named(variants: list[dict[str, Any]], message: str) -> None:
    """With its key."""
    with pytest.raises(ValidationError, match=message):
        config(*variants)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"fats": {}}, r"variants: 'fats' is none of the tiers fast, strong"),
        ({"fast": {"shares": {"nxt": 0.1}}}, r"variants.fast.shares: 'nxt' is no variant of fast"),
        ({"strong": {"shadows": {"next": 0.1}}}, r"there is none; write it into args.variants"),
        ({"fast": {"shares": {"next": 1.5}}}, r"less than or equal to 1"),
        ({"fast": {"rollback": {"signals": ["bad"]}}}, r"faults"),
    ],
)
def test_a_wrong_share_is_named(runtime: dict[str, Any], message: str) -> None:
    """With the names that exist."""
    with pytest.raises(ValidationError, match=message):
        config(variant(), variants=runtime)


def test_shares_are_at_most_all_calls() -> None:
    """The message shows the sum."""
    with pytest.raises(ValidationError, match=r"0.7 \+ 0.6 is 1.3"):
        TierVariantsConfig(shares={"a": 0.7, "b": 0.6})
    assert TierVariantsConfig(shares={"a": 0.7, "b": 0.3}).incumbent_share == 0


def test_a_canary_needs_an_incumbent() -> None:
    """Nothing to compare with is an error where a rollback is asked for, not where it is not."""
    with pytest.raises(ValidationError, match="nothing to compare with"):
        TierVariantsConfig.model_validate({"shares": {"a": 1.0}, "rollback": {}})
    assert TierVariantsConfig(shares={"a": 1.0}).incumbent_share == 0


def test_variants_drain_as_long_as_calls_may_last() -> None:
    """The check of the tiers' drains covers them."""
    app = AppConfig.model_validate(
        {"tiers": [{**TIERS[0], "drain_timeout_s": 5}], "variants": [variant()]}
    )
    with pytest.raises(ValueError, match="drain_timeout_s"):
        check_drains(app, app.runtime)
