"""The bits of a weight, the weights that a scheme packs, and the type that the card computes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from serve_app.offline.planning.compressed import find_compressed
from serve_app.offline.planning.models import ModelFacts
from serve_app.offline.planning.planning_errors import PlanningFailed, SchemeUnknown

Compute = Literal["bf16", "fp8", "int8"]


@dataclass(frozen=True)
class Scheme:
    """A way to store the matrices of attention and MLPs.

    Embeddings, output head, norms, biases and an MoE's router stay in 16 bit: vLLM's quantisation
    configs leave them out, and Qwen's quantised checkpoints hold them in 16 bit.
    """

    name: str
    bits: float
    """Bits of a weight, with its share of the group's scale and zero point."""
    compute: Compute
    group: int = 0
    """Consecutive weights that share a scale; a GPU must hold whole groups. 0: no groups."""
    padded: bool = False
    """Whether checkpoints of this kind may have a padded intermediate size."""
    experts_only: bool = False
    """Whether attention and dense MLPs stay in 16 bit."""
    online: bool = False
    """Whether vLLM packs the weights of a 16-bit checkpoint while it reads them."""
    expert_pad: int = 0
    """Multiple to which vLLM pads the columns of an expert on a GPU, and twice that for rows."""
    assumed: bool = False
    """Whether the scheme comes from the command line, because the config does not name it."""


_GROUP = 128
"""The group size of all quantised checkpoints that Qwen publishes (their quantization_config)."""

_MX_GROUP = 32
"""The group size of the OCP microscaling formats."""

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("bf16", 16, "bf16"),
        Scheme("fp16", 16, "bf16"),
        # A scale of 32 bits a tensor or channel: next to nothing.
        Scheme("fp8", 8, "fp8", online=True),
        # The same out of an FP8 checkpoint, such as llm-compressor's FP8_DYNAMIC.
        Scheme("fp8-file", 8, "fp8"),
        # Qwen's own FP8 checkpoints: a scale of 32 bits a block of 128 by 128.
        Scheme("fp8-block", 8 + 32 / _GROUP**2, "fp8", _GROUP),
        # W8A8 of compressed-tensors: a scale a channel.
        Scheme("int8", 8, "int8"),
        # vLLM's int8_per_channel_weight_only, and experts_int8: computed in 16 bit.
        Scheme("int8-experts", 8, "bf16", experts_only=True, online=True),
        # A scale of 8 bits for 32 weights; computed in 16 bit, to be careful.
        Scheme("mxfp8", 8 + 8 / _MX_GROUP, "fp8", _MX_GROUP, online=True),
        Scheme("mxfp4", 4 + 8 / _MX_GROUP, "bf16", _MX_GROUP, online=True),
        # gpt-oss: experts alone, in the checkpoint.
        Scheme("mxfp4-experts", 4 + 8 / _MX_GROUP, "bf16", experts_only=True, expert_pad=128),
        # W4A16 of compressed-tensors: symmetric, so without a zero point.
        Scheme("w4a16", 4 + 16 / _GROUP, "bf16", _GROUP),
        # A scale of 16 bits and a zero point a group; computed in 16 bit (Marlin).
        Scheme("gptq-int8", 8 + (16 + 8) / _GROUP, "bf16", _GROUP, padded=True),
        Scheme("gptq-int4", 4 + (16 + 4) / _GROUP, "bf16", _GROUP, padded=True),
        Scheme("awq-int4", 4 + (16 + 4) / _GROUP, "bf16", _GROUP, padded=True),
    )
}
SHORT = {"awq": "awq-int4", "gptq": "gptq-int4", "none": "bf16"}

_BY_SUFFIX = {
    "AWQ": "awq-int4",
    "GPTQ-Int4": "gptq-int4",
    "GPTQ-Int8": "gptq-int8",
    "FP8": "fp8-block",
    "MXFP4": "mxfp4-experts",
    "FP8-dynamic": "fp8-file",
    "quantized.w8a8": "int8",
    "quantized.w4a16": "w4a16",
}
_BY_ENGINE = {
    **dict.fromkeys(("awq", "auto_awq", "awq_marlin"), "awq-int4"),
    **dict.fromkeys(("gptq", "auto_gptq", "gptq_marlin"), "gptq-int4"),
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_channel"), "fp8"),
    **dict.fromkeys(("int8_per_channel_weight_only", "experts_int8"), "int8-experts"),
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
}
"""vLLM's names that alone determine how the weights are stored."""

_BY_COMPRESSED = {
    ("float", 8, "float8"): SCHEMES["fp8-file"],
    ("float", 8, ""): replace(SCHEMES["fp8-file"], name="w8a16-fp8", compute="bf16"),
    ("int", 8, "int8"): SCHEMES["int8"],
}
"""The schemes by the type and bits of the weights, and the type of the activations."""

CACHE_BYTES = {
    **dict.fromkeys(("auto", "bfloat16", "float16"), 2),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2"), 1),
}
"""Bytes of a cached element by vLLM's `kv_cache_dtype`; `auto` is the model's own type."""


def find_scheme(name: str) -> Scheme:
    """A scheme by its name on the command line.

    Raises:
        PlanningFailed: no scheme has this name.
    """
    scheme = SCHEMES.get(SHORT.get(name, name))
    if scheme is None:
        known = ", ".join((*SCHEMES, "awq", "gptq"))
        raise PlanningFailed(f"quantisation '{name}' is not known; known are {known}")
    return scheme


def choose_scheme(engine: str | None, suffix: str | None, stated: Mapping[str, Any]) -> Scheme:
    """How a tier's weights are stored: from the checkpoint, or else from the engine's arguments.

    Args:
        engine: vLLM's `quantization`.
        suffix: The scheme in the model's name, such as `AWQ`.
        stated: `quantization_config` of config.json.

    Raises:
        PlanningFailed: none of them determines the scheme in a known way.
    """
    if stated:
        return _parse_stated(stated)
    if suffix is not None:
        return SCHEMES[_BY_SUFFIX[suffix]]
    if engine is None:
        return SCHEMES["bf16"]
    if engine == "fp8_per_block":
        return replace(SCHEMES["fp8-block"], online=True)
    if engine not in _BY_ENGINE:
        raise SchemeUnknown(
            f"quantization: {engine} does not determine the bits of a weight; run the plan where "
            "the model's config.json is (model_source: a directory), or give --quantization"
        )
    return SCHEMES[_BY_ENGINE[engine]]


def _parse_stated(stated: Mapping[str, Any]) -> Scheme:
    method, bits = stated.get("quant_method"), stated.get("bits")
    group = stated.get("group_size")
    group = group if isinstance(group, int) and group > 0 else 0
    if method in ("awq", "gptq") and bits in (4, 8):
        per_group = (16 + bits) / group if group else 0.0
        return Scheme(f"{method}-int{bits}", bits + per_group, "bf16", group)
    if method == "fp8":
        block = stated.get("weight_block_size")
        if isinstance(block, list) and block == [_GROUP, _GROUP]:
            return SCHEMES["fp8-block"]
        if block is None:
            return SCHEMES["fp8-file"]
    if method == "mxfp4":
        return SCHEMES["mxfp4-experts"]
    if method == "compressed-tensors":
        return parse_compressed(stated)
    raise SchemeUnknown(
        f"quantization_config: {method!r} with {bits} bits cannot be planned; "
        "give the nearest with --quantization"
    )


def parse_compressed(stated: Mapping[str, Any]) -> Scheme:
    """The scheme of a compressed-tensors checkpoint.

    Raises:
        SchemeUnknown: it has several schemes, or one that is not known here.
    """
    found = find_compressed(stated)
    for name, scheme in _BY_COMPRESSED.items():
        if (found.kind, found.bits, found.computed) == name:
            return scheme
    if (found.kind, found.computed) == ("int", ""):
        bits = found.bits + (found.scale_bits / found.group if found.group else 0)
        return Scheme(f"w{found.bits}a16", bits, "bf16", found.group)
    raise SchemeUnknown(
        f"quantization_config: compressed-tensors with {found} cannot be planned; "
        "give the nearest with --quantization"
    )


def pad(facts: ModelFacts, scheme: Scheme) -> ModelFacts:
    """The model as checkpoints of this kind have it."""
    facts = replace(facts, expert_pad=scheme.expert_pad)
    if scheme.padded and facts.quantized_intermediate is not None:
        return replace(facts, intermediate=facts.quantized_intermediate)
    return facts
