"""The memory that vLLM keeps for images enters the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve_app.config.tiers import TierConfig
from serve_app.offline.planning.cards import parse_card
from serve_app.offline.planning.engine import Engine, read_engine
from serve_app.offline.planning.memory import image_bytes
from serve_app.offline.planning.models import find_model

MIB = 1024**2


def engine(**arguments: Any) -> Engine:
    document = {"name": "vl", "model_id": "Qwen/Qwen2.5-VL-7B-Instruct", "engine": arguments}
    return read_engine(TierConfig.model_validate(document), parse_card("H100"))


def needed(run: Engine, name: str = "Qwen2.5-VL-7B") -> float:
    found = find_model(name)
    assert found is not None
    return image_bytes(found[0], run)


def test_a_text_model_needs_none() -> None:
    """Whatever the engine's arguments are."""
    assert needed(engine(), "Qwen2.5-7B-Instruct") == 0


def test_no_image_needs_none() -> None:
    """vLLM does not load the tower's part of a step if images are limited to 0."""
    assert needed(engine(limit_mm_per_prompt={"image": 0})) == 0


def test_the_step_and_the_cache_of_the_largest_image() -> None:
    """16,384 tokens of 3,584 channels, and 65,536 patches: counted by hand."""
    cache = 16_384 * 3584 * 2
    patch = 3 * 2 * 14**2 + 2 * 1280 + 3 * 3420
    assert needed(engine()) == pytest.approx(cache + 65_536 * patch * 2)


def test_fewer_pixels_and_more_gpus_need_less() -> None:
    """The cache is whole on every GPU, and at least as long as a step."""
    small = engine(mm_processor_kwargs={"max_pixels": 802_816}, max_num_batched_tokens=4096)
    assert needed(small) < needed(engine()) / 4
    assert needed(small) > 4096 * 3584 * 2
    four = replace(engine(), parallel=replace(engine().parallel, tensor=4))
    assert 16_384 * 3584 * 2 < needed(four) < needed(engine())


def test_qwen3_keeps_the_outputs_of_its_taps() -> None:
    """A token of Qwen3-VL holds four vectors of the text model's width."""
    found = find_model("Qwen3-VL-8B-Instruct")
    assert found is not None
    tower = found[0].tower
    assert tower is not None
    assert tower.cache_bytes(1, 4096, 2) == 4 * 4096 * 2
