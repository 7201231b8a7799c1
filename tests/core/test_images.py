"""The tokens of images are those of the models' own processors."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from serve_app.core.call import Prompt
from serve_app.core.images import GRIDS, SIDES_RATIO_MAX, ImagePart, Patches, PatchGrid
from serve_app.core.tokens import TOKENS_PER_IMAGE, count_image_tokens, estimate_tokens

sides = st.integers(1, 20_000)


def processed(grid: PatchGrid, width: int, height: int) -> int:
    high, wide = smart_resize(height, width, grid.side, grid.pixels_min, grid.pixels_max)
    return int(high // grid.side * (wide // grid.side))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@given(width=sides, height=sides)
def test_tokens_are_those_of_transformers(grid: PatchGrid, width: int, height: int) -> None:
    """`smart_resize` of the same version that vLLM imports, for any size that it takes."""
    assume(not ImagePart("", width, height).drawn_out)
    assert grid.count_tokens(width, height) == processed(grid, width, height)


@pytest.mark.parametrize(
    ("patches", "width", "height", "tokens"),
    [
        (Patches.QWEN2_5_VL, 1280, 720, 46 * 26),
        (Patches.QWEN3_VL, 1280, 720, 40 * 22),
        (Patches.QWEN2_5_VL, 1, 1, 4),
        (Patches.QWEN3_VL, 1, 1, 64),
        (Patches.QWEN2_5_VL, 8000, 6000, 147 * 110),
        (Patches.QWEN3_VL, 8000, 6000, 147 * 110),
    ],
)
def test_tokens_of_usual_sizes(patches: Patches, width: int, height: int, tokens: int) -> None:
    """A screen, the smallest image, and a photo that is scaled to the most pixels."""
    assert GRIDS[patches].count_tokens(width, height) == tokens


def test_a_ratio_of_sides_that_the_processor_refuses_is_known() -> None:
    """The bound is that of `smart_resize`, which raises above it."""
    assert not ImagePart("", SIDES_RATIO_MAX, 1).drawn_out
    smart_resize(1, SIDES_RATIO_MAX)
    assert ImagePart("", SIDES_RATIO_MAX + 1, 1).drawn_out
    with pytest.raises(ValueError, match="aspect ratio"):
        smart_resize(1, SIDES_RATIO_MAX + 1)


def test_bounds_of_a_config_replace_those_of_the_model() -> None:
    """Each bound by itself."""
    grid = GRIDS[Patches.QWEN2_5_VL]
    assert grid.bounded(None, None) == grid
    assert grid.bounded(None, 784_000).count_tokens(4000, 3000) <= 1000
    assert grid.bounded(784_000, None).count_tokens(100, 100) >= 1000


def test_a_prompt_counts_its_images() -> None:
    """Images of a known size exactly, with their marks; others as one of a megapixel."""
    grid = GRIDS[Patches.QWEN2_5_VL]
    known = ImagePart("p", 1280, 720)
    prompt = Prompt(images=2, image_parts=(known, ImagePart("q", host="good.org")))
    assert count_image_tokens(prompt, grid) == 46 * 26 + 2 + TOKENS_PER_IMAGE
    assert estimate_tokens(prompt, grid) - estimate_tokens(Prompt(), grid) == 1198 + 1300
