"""The vision tower of a model: its parameters, which stay in 16 bit, and its memory for images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COLOURS, _FRAMES, _MERGED = 3, 2, 2 * 2
"""Channels, frames of a patch, and patches that are merged to one token: of all of these models."""
_TAPS = (0, 0, 0)
"""Qwen3-VL's taps, where a config does not name them."""


@dataclass(frozen=True)
class Tower:
    """The sizes of a tower that its memory depends on."""

    width: int
    inner: int
    patch: int
    taps: int
    """Layers whose outputs are added to the text model's, beside the output of the tower."""

    def step_bytes(self, tokens: int, tensor: int, element_bytes: int) -> float:
        """The peak of a step that encodes this many tokens on one of `tensor` GPUs.

        For each patch: its pixels, the residual and the hidden state, and then what the larger of
        attention (queries, keys, values, rotated queries and keys, output) and MLP (gate, up, their
        product) needs.
        """
        pixels = _COLOURS * _FRAMES * self.patch**2
        inner = max(6 * self.width, 3 * self.inner) / tensor
        return tokens * _MERGED * (pixels + 2 * self.width + inner) * element_bytes

    def cache_bytes(self, tokens: int, hidden: int, element_bytes: int) -> int:
        """The cache of encoded images, which every GPU has whole."""
        return tokens * hidden * (1 + self.taps) * element_bytes


def read_tower(kind: str, vision: Mapping[str, Any]) -> Tower:
    """The sizes, from `vision_config` or the shipped table."""
    qwen3 = kind != "qwen2_5_vl"
    return Tower(
        int(vision["hidden_size"]),
        int(vision["intermediate_size"]),
        int(vision.get("patch_size", 16 if qwen3 else 14)),
        len(vision.get("deepstack_visual_indexes", _TAPS)) if qwen3 else 0,
    )


def count_vision(kind: str, vision: Mapping[str, Any], hidden: int) -> int:
    """Of a tower that feeds a text model with so many hidden channels.

    Raises:
        ValueError: the kind of tower is not known here.
    """
    depth, width = int(vision["depth"]), int(vision["hidden_size"])
    inner = int(vision["intermediate_size"])
    if kind == "qwen2_5_vl":
        return _count_gated(depth, width, inner, int(vision.get("patch_size", 14)), hidden)
    if kind in ("qwen3_vl", "qwen3_vl_moe"):
        places = int(vision.get("num_position_embeddings", 2304))
        taps = len(vision.get("deepstack_visual_indexes", _TAPS))
        patch = int(vision.get("patch_size", 16))
        body = _count_plain(depth, width, inner, patch) + places * width
        merger = 2 * width + _count_merger(width, hidden)
        return body + merger + taps * (2 * _MERGED * width + _count_merger(width, hidden))
    raise ValueError(f"the vision tower of {kind} cannot be planned")


def _linear(inputs: int, outputs: int) -> int:
    """A matrix with a bias."""
    return inputs * outputs + outputs


def _count_merger(width: int, hidden: int) -> int:
    """Two layers that turn merged patches into a token."""
    merged = _MERGED * width
    return _linear(merged, merged) + _linear(merged, hidden)


def _count_gated(depth: int, width: int, inner: int, patch: int, hidden: int) -> int:
    """Qwen2.5-VL: RMS norms and gated MLPs."""
    mlp = 2 * _linear(width, inner) + _linear(inner, width)
    block = 2 * width + _linear(width, 3 * width) + _linear(width, width) + mlp
    embed = _COLOURS * _FRAMES * patch**2 * width
    return embed + depth * block + width + _count_merger(width, hidden)


def _count_plain(depth: int, width: int, inner: int, patch: int) -> int:
    """Qwen3-VL: layer norms with biases, and MLPs of two matrices."""
    mlp = _linear(width, inner) + _linear(inner, width)
    block = 4 * width + _linear(width, 3 * width) + _linear(width, width) + mlp
    return _linear(_COLOURS * _FRAMES * patch**2, width) + depth * block
