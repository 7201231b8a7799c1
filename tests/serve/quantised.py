"""A demo model in fewer bits, laid out as AWQ's tools do.

Rounded to the nearest, without calibration: enough for easy questions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from serve_app import demo

GROUP = 32
"""Weights that share a scale, down a column; must divide every input size of the model."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns AWQ's GEMM layout puts into each 4 bits of a word, lowest first."""
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
}


def write_awq(model: str, directory: Path) -> Path:
    """A copy of a demo model with weights in 4 bits, in groups with a scale and a zero point."""
    source = demo.locate(model)
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("*.safetensors", "SHA256SUMS"))
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors.update(_convert(name.removesuffix(".weight"), tensor.float()))
        else:
            tensors[name] = tensor
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = AWQ
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _convert(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    outputs, inputs = weight.shape
    groups = weight.T.reshape(inputs // GROUP, GROUP, outputs)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    scale = (high - low) / 15
    zero = (-low / scale).round().clamp(0, 15)
    levels = ((groups / scale).round() + zero).clamp(0, 15)
    yield f"{name}.qweight", _pack(levels.reshape(inputs, outputs))
    yield f"{name}.qzeros", _pack(zero.squeeze(1))
    yield f"{name}.scales", scale.squeeze(1).to(torch.bfloat16).contiguous()


def _pack(levels: torch.Tensor) -> torch.Tensor:
    """Eight columns of 4-bit levels in each 32-bit word."""
    rows, columns = levels.shape
    eights = levels.to(torch.int64).reshape(rows, columns // 8, 8)[:, :, AWQ_ORDER]
    words = sum(eights[:, :, place] << (4 * place) for place in range(8))
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()
