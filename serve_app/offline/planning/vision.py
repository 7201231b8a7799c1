"""How many parameters the vision tower of a model has; they stay in 16 bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLOURS, _FRAMES, _MERGED = 3, 2, 2 * 2
"""Channels, frames of a patch, and patches that are merged to one token: of all of these models."""


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
        taps = len(vision.get("deepstack_visual_indexes", (0, 0, 0)))
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
