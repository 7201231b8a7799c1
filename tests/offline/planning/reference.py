"""The shipped models as the pinned transformers builds them, to count them a second time."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from serve_app.offline.planning.models import ModelFacts
from tests.offline.planning.tiers import facts

_FAMILIES = {
    "Qwen2.5-VL": "qwen2_5_vl",
    "Qwen3-VL": "qwen3_vl",
    "Qwen3-Next": "qwen3_next",
    "gpt-oss": "gpt_oss",
    "Llama": "llama",
    "Qwen2.5": "qwen2",
    "QwQ": "qwen2",
    "Qwen3": "qwen3",
}
_TOWERS = {
    "Qwen2.5-VL-3B": (32, 1280, 3420),
    "Qwen2.5-VL-7B": (32, 1280, 3420),
    "Qwen2.5-VL-32B": (32, 1280, 3456),
    "Qwen2.5-VL-72B": (32, 1280, 3456),
    "Qwen3-VL-2B": (24, 1024, 4096),
    "Qwen3-VL-4B": (24, 1024, 4096),
}


def build_config(name: str) -> PretrainedConfig:
    """The config of a shipped model."""
    found = facts(name)
    kind = next(kind for family, kind in _FAMILIES.items() if name.startswith(family))
    mixture = "_moe" if found.experts and kind in ("qwen3", "qwen3_vl") else ""
    text = {**_describe(found), **_describe_experts(found)}
    if not found.vision:
        return CONFIG_MAPPING[kind + mixture](**text, **_describe_linear(found))
    depth, width, inner = _TOWERS.get(name, (27, 1152, 4304))
    tower = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": inner,
        "out_hidden_size": found.hidden,
    }
    return CONFIG_MAPPING[kind + mixture](
        text_config=text, vision_config=tower, tie_word_embeddings=found.tied
    )


def count_parameters(name: str) -> int:
    """Of the model that transformers builds, without its weights."""
    auto = AutoModelForImageTextToText if facts(name).vision else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(build_config(name))
    return sum(parameter.numel() for parameter in model.parameters())


def _describe(found: ModelFacts) -> dict[str, Any]:
    return {
        "num_hidden_layers": found.layers,
        "hidden_size": found.hidden,
        "num_attention_heads": found.heads,
        "num_key_value_heads": found.kv_heads,
        "head_dim": found.head_dim,
        "intermediate_size": found.intermediate,
        "vocab_size": found.vocabulary,
        "max_position_embeddings": found.positions,
        "tie_word_embeddings": found.tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }


def _describe_experts(found: ModelFacts) -> dict[str, Any]:
    if not found.experts:
        return {}
    return {
        "num_experts": found.experts,
        "num_local_experts": found.experts,
        "num_experts_per_tok": found.active_experts,
        "moe_intermediate_size": found.expert_intermediate,
    }


def _describe_linear(found: ModelFacts) -> dict[str, Any]:
    if found.linear is None:
        return {}
    return {
        "linear_num_key_heads": found.linear.key_heads,
        "linear_num_value_heads": found.linear.value_heads,
        "linear_key_head_dim": found.linear.key_dim,
        "linear_value_head_dim": found.linear.value_dim,
        "linear_conv_kernel_dim": found.linear.kernel,
        "shared_expert_intermediate_size": found.shared_intermediate,
    }
