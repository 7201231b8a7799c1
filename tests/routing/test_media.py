"""Calls with images go only to tiers that take these images."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Endpoint, Prompt, Reason, Turn
from serve_app.core.errors import InvalidField, TooMany
from serve_app.core.images import GRIDS, ImagePart, Patches
from serve_app.gateway.wire import JsonPayload
from serve_app.routing.choose import choose_route
from serve_app.routing.scorer import HeuristicScorer

SMALL = ImagePart("messages[0].content.image_url", 1280, 720, 90_000)
REMOTE = ImagePart("messages[0].content.image_url", host="good.org")


def tier(name: str, *, sees: bool = True, context: int = 32_768, **media: Any) -> TierConfig:
    document: dict[str, Any] = {"name": name, "model_id": f"Qwen/{name}"}
    document["engine"] = {"max_model_len": context}
    if sees:
        document |= {"modalities": ["text", "image"], "media": media}
    return TierConfig.model_validate(document)


FAST, STRONG = tier("fast", sees=False), tier("strong", sees=False)
VL, VL_STRONG = tier("vl"), tier("vl-strong")


def ask(
    *images: ImagePart, model: str = "auto", endpoint: Endpoint = Endpoint.CHAT, text: str = "Hi"
) -> Call:
    prompt = Prompt((Turn("user", text),), images=len(images), image_parts=images)
    return Call("r", endpoint, model, JsonPayload({}), prompt)


def tier_of(call: Call, *tiers: TierConfig, **routing: Any) -> tuple[str, Reason]:
    config = RoutingConfig(scorer="heuristic", **routing)
    decision = choose_route(call, tiers, config, HeuristicScorer()).decision
    return decision.tier, decision.reason


def refusal(call: Call, *tiers: TierConfig) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        tier_of(call, *tiers)
    return caught.value


def test_only_a_call_with_images_goes_to_the_tier_that_sees() -> None:
    """Text goes where it went before, although a tier that sees is there."""
    assert tier_of(ask(SMALL), FAST, VL, STRONG) == ("vl", Reason.ONLY_TIER)
    assert tier_of(ask(), FAST, VL, STRONG)[0] == "fast"
    assert tier_of(ask(endpoint=Endpoint.TOKENIZE), FAST, VL, STRONG)[0] == "fast"


@pytest.mark.parametrize("endpoint", [Endpoint.TOKENIZE, Endpoint.COUNT_TOKENS])
def test_images_are_counted_where_they_would_be_read(endpoint: Endpoint) -> None:
    """A tokenizer of another model would count other tokens."""
    assert tier_of(ask(SMALL, endpoint=endpoint), FAST, VL, STRONG)[0] == "vl"


def test_two_tiers_that_see_share_calls_by_the_score() -> None:
    """The rules are those of text, among these tiers."""
    tiers = (FAST, VL, VL_STRONG)
    assert tier_of(ask(SMALL), *tiers)[0] == "vl"
    hard = "Prove step by step that the algorithm is correct, and derive its complexity."
    assert tier_of(ask(SMALL, text=hard), *tiers, strong_score_min=0.3)[0] == "vl-strong"
    assert tier_of(ask(SMALL), *tiers, default_tier="vl-strong")[1] is Reason.POLICY


def test_fallback_and_limits_stay_among_tiers_that_see() -> None:
    """An image never reaches a model that cannot read it, although that model is free."""
    route = choose_route(
        ask(SMALL), (FAST, VL, STRONG, VL_STRONG), RoutingConfig(), HeuristicScorer()
    )
    assert {route.decision.tier, *(other.tier for other in route.others)} == {"vl", "vl-strong"}
    assert tier_of(ask(SMALL), FAST, VL, STRONG, never_below="strong")[0] == "vl"


@pytest.mark.parametrize("model", ["fast", "Qwen/fast", "auto"])
def test_an_image_for_models_that_read_text_is_refused(model: str) -> None:
    """With the field and the remedy; `auto` too, if no tier sees."""
    tiers = (FAST, STRONG) if model == "auto" else (FAST, VL)
    error = refusal(ask(SMALL, model=model), *tiers)
    assert error.param == "messages[0].content.image_url"
    assert "modalities: [text, image]" in error.message


@pytest.mark.parametrize(
    ("image", "media", "expected"),
    [
        (ImagePart("p", 100, 100, 5000), {"image_bytes_max": 4999}, "4999 bytes"),
        (ImagePart("p", 100, 101, 50), {"image_pixels_max": 10_000}, "10000 pixels"),
        (ImagePart("p", 60_000, 60_000, 50), {}, "16777216 pixels"),
        (ImagePart("p", host="bad.org"), {}, "base64 'data:' URL."),
        (ImagePart("p", host="bad.org"), {"allowed_hosts": ["good.org"]}, "a URL of good.org"),
        (ImagePart("p", host="x.good.org"), {"allowed_hosts": ["good.org"]}, "a URL of good.org"),
    ],
)
def test_an_image_beyond_the_bounds_is_refused(
    image: ImagePart, media: dict[str, Any], expected: str
) -> None:
    """Before an engine sees it, with the field and the bound."""
    for model in ("auto", "vl"):
        error = refusal(ask(image, model=model), FAST, tier("vl", **media))
        assert error.param == "p"
        assert expected in error.message


def test_a_wider_tier_takes_what_another_does_not() -> None:
    """The bounds are those of each tier."""
    wide = tier("wide", image_pixels_max=30_000_000, allowed_hosts=["good.org"])
    assert tier_of(ask(ImagePart("p", 5000, 5000)), VL, wide)[0] == "wide"
    assert tier_of(ask(REMOTE), VL, wide)[0] == "wide"


def test_too_many_images_are_refused() -> None:
    """By the bound of the strongest tier that sees."""
    error = refusal(ask(SMALL, SMALL, SMALL), tier("vl", images_max=2))
    assert isinstance(error, TooMany)
    assert "at most 2 images" in error.message


def test_the_tokens_of_images_decide_by_length() -> None:
    """16,384 tokens of one photo do not fit a context of 8,192, and its text alone would."""
    short, long = tier("vl", context=8192), tier("vl-long", context=65_536)
    photo = ImagePart("p", 4096, 4096, 90_000)
    assert tier_of(ask(photo), short, long) == ("vl-long", Reason.PROMPT_TOO_LONG)
    assert tier_of(ask(SMALL), short, long)[0] == "vl"


@pytest.mark.parametrize(
    ("document", "grid"),
    [
        ({}, GRIDS[Patches.QWEN2_5_VL]),
        ({"model_id": "Qwen/Qwen3-VL-8B-Instruct"}, GRIDS[Patches.QWEN3_VL]),
        ({"model_source": "/models/Qwen3-VL-8B-Instruct"}, GRIDS[Patches.QWEN3_VL]),
        ({"media": {"patches": "qwen3_vl"}}, GRIDS[Patches.QWEN3_VL]),
        (
            {"engine": {"mm_processor_kwargs": {"max_pixels": 1_003_520}}},
            GRIDS[Patches.QWEN2_5_VL].bounded(None, 1_003_520),
        ),
        (
            {"engine": {"mm_processor_kwargs": {"size": {"shortest_edge": 4096}}}},
            GRIDS[Patches.QWEN2_5_VL].bounded(4096, None),
        ),
    ],
)
def test_the_arithmetic_is_that_of_the_tiers_model(document: dict[str, Any], grid: object) -> None:
    """By its name, by a key, and within the bounds that the engine was given."""
    base = {"name": "vl", "model_id": "m", "modalities": ["text", "image"]}
    assert TierConfig.model_validate({**base, **document}).patch_grid == grid


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"modalities": ["image"]}, "reads no text"),
        ({"media": {"images_max": 2}}, "media has no effect"),
        ({"engine": {"limit_mm_per_prompt": {"image": 2}}}, "modalities"),
        (
            {"modalities": ["text", "image"], "media": {"private_networks": ["10.0.0.1/8"]}},
            "not a network",
        ),
        ({"modalities": ["text", "image"], "media": {"allowed_hosts": ["Good.org"]}}, "pattern"),
    ],
)
def test_contradictions_are_named(document: dict[str, Any], problem: str) -> None:
    """When the config is read, not when a call comes."""
    with pytest.raises(ValueError, match=problem):
        TierConfig.model_validate({"name": "vl", "model_id": "m", **document})
