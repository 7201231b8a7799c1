"""The images of a call: where each stands, its size, and the tokens that a model makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

SIDES_RATIO_MAX = 200
"""The most that an image may be longer than wide: `smart_resize` of transformers raises above."""

IMAGE_MARKS = 2
"""`<|vision_start|>` and `<|vision_end|>`, which the templates of both families write."""


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One image of a call.

    `param` is the field that names it. An image in the body has its size in pixels and the bytes
    of its file. Of an image elsewhere only the `host` of its URL is known. An image that a client
    sends as tensors has neither.
    """

    param: str
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    host: str | None = None

    @property
    def pixels(self) -> int:
        """Width times height; 0 if the size is not known."""
        return self.width * self.height

    @property
    def drawn_out(self) -> bool:
        """Whether the model's processor refuses the ratio of the sides."""
        return max(self.width, self.height) > SIDES_RATIO_MAX * min(self.width, self.height)


class Patches(StrEnum):
    """The families of models whose arithmetic is known here."""

    QWEN2_5_VL = "qwen2_5_vl"
    QWEN3_VL = "qwen3_vl"


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """How a model cuts an image: one token for each square of `patch * merge` pixels.

    The processor first scales the image to a number of pixels between the two bounds.
    """

    patch: int
    merge: int
    pixels_min: int
    pixels_max: int

    @property
    def side(self) -> int:
        """The side of a token's square in pixels."""
        return self.patch * self.merge

    def count_tokens(self, width: int, height: int) -> int:
        """The tokens of an image of this size, as `smart_resize` of transformers cuts it."""
        side = self.side
        columns, rows = round(width / side), round(height / side)
        pixels = columns * rows * side**2
        if pixels > self.pixels_max:
            scale = math.sqrt(width * height / self.pixels_max)
            columns = max(1, math.floor(width / scale / side))
            rows = max(1, math.floor(height / scale / side))
        elif pixels < self.pixels_min:
            scale = math.sqrt(self.pixels_min / (width * height))
            columns = math.ceil(width * scale / side)
            rows = math.ceil(height * scale / side)
        return columns * rows

    def bounded(self, pixels_min: int | None, pixels_max: int | None) -> PatchGrid:
        """The grid with other bounds, where they are given."""
        return replace(
            self,
            pixels_min=pixels_min or self.pixels_min,
            pixels_max=pixels_max or self.pixels_max,
        )


GRIDS: Mapping[Patches, PatchGrid] = {
    Patches.QWEN2_5_VL: PatchGrid(14, 2, 3_136, 12_845_056),
    Patches.QWEN3_VL: PatchGrid(16, 2, 65_536, 16_777_216),
}
"""Patch and merge size are of the models' vision_config, and the bounds of pixels are of the
`preprocessor_config.json` that comes with Qwen2.5-VL-7B-Instruct and Qwen3-VL-8B-Instruct. A file
with other bounds is followed by `engine.mm_processor_kwargs`."""

DEFAULT_GRID = GRIDS[Patches.QWEN2_5_VL]
"""Where no model is chosen yet. Its squares are the smaller ones, so it counts more tokens."""
