"""The shape of a model, by its config.json or the shipped table, and what follows from it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from serve_app.model_files.files import read_json_object
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.vision import Tower, count_vision, read_tower

TABLE = Path(__file__).with_name("models.toml")
KNOWN_TYPES = (
    "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe",
    "gpt_oss", "llama", "mistral",
)  # fmt: skip
_BIASED = ("qwen2", "qwen2_5_vl")
_NORMED = ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe")
_MIXTURES = ("qwen3_moe", "qwen3_next", "qwen3_vl_moe", "gpt_oss")
_TOWERS = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

_NAME = re.compile(
    r"(?:Meta-)?(?P<model>gpt-oss-\d+b|(?:Qwen2\.5(?:-Coder|-VL)?|Qwen3(?:-Coder|-VL|-Next|-Embedding|-Reranker)?|QwQ"
    r"|Llama-3(?:\.[1-3])?)-[\d.]+B(?:-A\d+B)?)"
    r"(?:-(?P<kind>Base|Instruct|Thinking|(?:Instruct|Thinking)-2507))?"
    r"(?:-(?P<quantization>AWQ|GPTQ-Int[48]|FP8(?:-dynamic)?|quantized\.w(?:8a8|4a16)))?"
)


@dataclass(frozen=True)
class LinearAttention:
    """A layer with a state of fixed size in place of keys and values: a gated delta net."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    """Tokens that its convolution looks at."""

    @property
    def keys(self) -> int:
        """Channels of all keys; queries have as many."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Channels of all values; gates and outputs have as many."""
        return self.value_heads * self.value_dim

    def matrices(self, hidden: int) -> int:
        """Elements that a scheme packs: of queries, keys, values, gates and outputs."""
        return hidden * (2 * self.keys + 3 * self.values)

    def small(self, hidden: int) -> int:
        """What no scheme packs: decay and step of each head, convolution and norm."""
        heads = 2 * self.value_heads
        return hidden * heads + heads + self.kernel * self.mixed + self.value_dim

    @property
    def mixed(self) -> int:
        """Channels of the convolution."""
        return 2 * self.keys + self.values

    @property
    def state(self) -> int:
        """Elements that a call keeps in a layer: of the convolution and of the heads."""
        return (self.kernel - 1) * self.mixed + self.values * self.key_dim


@dataclass(frozen=True)
class ModelFacts:
    """A decoder with grouped-query attention and gated MLPs; counts are of elements, not bytes."""

    name: str
    source: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    positions: int
    """max_position_embeddings: the longest context without scaled positions."""
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: int = 0
    active_experts: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    """Of the expert that every token meets."""
    quantized_intermediate: int | None = None
    """The intermediate size of the AWQ and GPTQ checkpoints, where it differs."""
    windowed_layers: int = 0
    window: int = 0
    """Tokens that these layers look back to, and so keep."""
    linear_layers: int = 0
    linear: LinearAttention | None = None
    gated_attention: bool = False
    """Whether queries come with a gate of the same size."""
    biased: bool = False
    """gpt-oss: biases everywhere, and a sink of each head."""
    vision: int = 0
    """Of the whole vision tower."""
    tower: Tower | None = None
    expert_pad: int = 0
    """Multiple to which vLLM pads the columns of an expert on a GPU, and twice that for rows."""

    @property
    def hybrid(self) -> bool:
        """Whether some layers keep less than all tokens."""
        return self.windowed_layers + self.linear_layers > 0

    @property
    def full_layers(self) -> int:
        """Layers that keep keys and values of all tokens."""
        return self.layers - self.windowed_layers - self.linear_layers

    @property
    def embedding(self) -> int:
        """Elements of one embedding matrix; the output head has as many."""
        return self.vocabulary * self.hidden

    @property
    def query_heads(self) -> float:
        """Heads of queries and outputs together, halved; a gate counts as half a head."""
        return self.heads * (1.5 if self.gated_attention else 1.0)

    @property
    def attention(self) -> int:
        """Matrix elements of one layer's attention."""
        return round(2 * self.hidden * self.head_dim * (self.query_heads + self.kv_heads))

    @property
    def expert(self) -> int:
        """Matrix elements of one expert."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def shared(self) -> int:
        """Matrix elements of the expert that every token meets."""
        return 3 * self.hidden * self.shared_intermediate

    @property
    def norms(self) -> int:
        """Biases and norms of a layer with attention."""
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        sinks = self.hidden + self.heads if self.biased else 0
        return bias + sinks + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def expert_bias(self) -> int:
        """Of one expert."""
        return 2 * self.expert_intermediate + self.hidden if self.biased else 0

    @property
    def routers(self) -> int:
        """Norms and routers of any layer, with the gate of a shared expert."""
        gate = self.hidden if self.shared_intermediate else 0
        bias = self.experts if self.biased else 0
        return 2 * self.hidden + self.hidden * self.experts + gate + bias

    @property
    def packed(self) -> int:
        """What a scheme packs of the whole model."""
        mlp = self.expert * self.experts + self.shared
        mlp = mlp if self.experts else 3 * self.hidden * self.intermediate
        linear = self.linear.matrices(self.hidden) * self.linear_layers if self.linear else 0
        attended = self.layers - self.linear_layers
        return self.layers * mlp + attended * self.attention + linear

    @property
    def parameters(self) -> int:
        """All of them; a tied output head is counted once."""
        attended = self.layers - self.linear_layers
        linear = self.linear.small(self.hidden) * self.linear_layers if self.linear else 0
        each = self.routers + self.experts * self.expert_bias
        small = self.layers * each + attended * self.norms + linear + self.hidden
        return self.packed + small + self.embedding * (1 if self.tied else 2) + self.vision

    @property
    def active_parameters(self) -> int:
        """Those that one token of text meets, embeddings included."""
        idle = self.experts - self.active_experts
        return self.parameters - self.layers * idle * (self.expert + self.expert_bias) - self.vision


def find_model(name: str) -> tuple[ModelFacts, str | None] | None:
    """Look a name such as `Qwen/Qwen2.5-72B-Instruct-AWQ` up in the shipped table.

    Returns the facts and the quantisation that the name states; None for an unknown name.
    """
    match = _NAME.fullmatch(name.rstrip("/").rsplit("/", 1)[-1])
    if match is None or match["model"] not in _read_table()["models"]:
        return None
    row = _find_row(match["model"])
    positions = _choose_positions(row, match["kind"] or "")
    if positions is None:
        return None
    family = _read_table()["families"][row["family"]]
    facts = ModelFacts(
        name=match["model"],
        source=family["source"],
        positions=positions,
        head_dim=row.get("head_dim") or family["head_dim"] or row["hidden"] // row["heads"],
        qkv_bias=family["qkv_bias"],
        qk_norm=family["qk_norm"],
        linear=LinearAttention(**row["linear"]) if "linear" in row else None,
        vision=count_vision(row["tower"]["kind"], row["tower"], row["hidden"])
        if "tower" in row
        else 0,
        tower=read_tower(row["tower"]["kind"], row["tower"]) if "tower" in row else None,
        **{key: row[key] for key in row.keys() & _FROM_ROW},
    )
    return facts, family["stored"].get(match["quantization"] or "", match["quantization"])


_FROM_ROW = {
    "layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "tied", "experts",
    "active_experts", "expert_intermediate", "quantized_intermediate", "shared_intermediate",
    "windowed_layers", "window", "linear_layers", "gated_attention", "biased",
}  # fmt: skip


def _find_row(model: str) -> dict[str, Any]:
    """A model's row, on top of the row of the model that it is like."""
    row = dict(_read_table()["models"][model])
    base = _find_row(row["like"]) if "like" in row else {}
    return {"family": model.partition("-")[0], **base, **row}


def _choose_positions(row: Mapping[str, Any], kind: str) -> int | None:
    """max_position_embeddings of this kind; None if there is no such model."""
    key = {"Base": "base_positions"}.get(kind, "positions")
    if kind.endswith("2507"):
        return int(row["positions_2507"]) if "positions_2507" in row else None
    return int(row.get(key, row["positions"]))


def list_models() -> list[str]:
    """The names in the shipped table."""
    return list(_read_table()["models"])


def published_parameters(name: str) -> tuple[float | None, float | None]:
    """What others count: all parameters, and the active ones of a mixture of experts."""
    row = _read_table()["models"][name]
    return row.get("published"), row.get("published_active")


@cache
def _read_table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def read_model(directory: Path) -> tuple[ModelFacts, Mapping[str, Any]]:
    """Read a directory's config.json: the facts, and its `quantization_config` (or nothing).

    Raises:
        PlanningFailed: it cannot be read, or is of a kind that is not known here.
    """
    path = directory / "config.json"
    try:
        config = read_json_object(path)
        facts = parse_config(config, directory.name)
    except ValueError as error:
        raise PlanningFailed(f"{path}: {error}") from None
    quantization = config.get("quantization_config")
    return replace(facts, source=str(path)), quantization if isinstance(quantization, dict) else {}


def parse_config(config: Mapping[str, Any], name: str) -> ModelFacts:
    """The facts in a config.json.

    Raises:
        ValueError: names the key that is missing, or the kind that is not known.
    """
    kind = config.get("model_type")
    if kind not in KNOWN_TYPES:
        raise ValueError(
            f"model_type {kind!r} cannot be planned; known are {', '.join(KNOWN_TYPES)}"
        )
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    heads, hidden = _whole(text, "num_attention_heads"), _whole(text, "hidden_size")
    if text.get("mlp_only_layers") or text.get("decoder_sparse_step", 1) != 1:
        raise ValueError("mlp_only_layers and decoder_sparse_step mix dense and expert layers here")
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    facts = ModelFacts(
        name=name,
        source=name,
        layers=_whole(text, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(text, "num_key_value_heads", heads),
        head_dim=_whole(text, "head_dim", hidden // heads),
        intermediate=_whole(text, "intermediate_size"),
        vocabulary=_whole(text, "vocab_size"),
        positions=_read_positions(text),
        tied=tied is True,
        qkv_bias=kind in _BIASED or kind == "gpt_oss",
        qk_norm=kind in _NORMED,
        biased=kind == "gpt_oss",
        gated_attention=kind == "qwen3_next",
    )
    facts = replace(facts, **_read_experts(text, kind), **_read_layers(text, kind))
    return replace(facts, **_read_vision(config, kind, hidden))


def _read_experts(text: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if kind not in _MIXTURES:
        return {}
    # transformers 5 writes `num_local_experts` where Qwen wrote `num_experts`.
    experts = "num_local_experts" if "num_local_experts" in text else "num_experts"
    inner = "intermediate_size" if kind == "gpt_oss" else "moe_intermediate_size"
    shared = "shared_expert_intermediate_size"
    return {
        "experts": _whole(text, experts),
        "active_experts": _whole(text, "num_experts_per_tok"),
        "expert_intermediate": _whole(text, inner),
        "shared_intermediate": _whole(text, shared) if kind == "qwen3_next" else 0,
    }


def _read_layers(text: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The layers that keep less than all tokens."""
    layers = _whole(text, "num_hidden_layers")
    if kind == "gpt_oss":
        types = text.get("layer_types") or ["sliding_attention", "full_attention"] * (layers // 2)
        return {
            "windowed_layers": types.count("sliding_attention"),
            "window": _whole(text, "sliding_window"),
        }
    if kind == "qwen3_next":
        linear = LinearAttention(
            _whole(text, "linear_num_key_heads"),
            _whole(text, "linear_num_value_heads"),
            _whole(text, "linear_key_head_dim"),
            _whole(text, "linear_value_head_dim"),
            _whole(text, "linear_conv_kernel_dim"),
        )
        full = layers // _whole(text, "full_attention_interval", 4)
        return {"linear_layers": layers - full, "linear": linear}
    return {}


def _read_vision(config: Mapping[str, Any], kind: str, hidden: int) -> dict[str, Any]:
    if kind not in _TOWERS:
        return {}
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise ValueError("vision_config: expected an object")
    sizes = {key: _whole(vision, key) for key in ("depth", "hidden_size", "intermediate_size")}
    whole = {**vision, **sizes}
    return {"vision": count_vision(kind, whole, hidden), "tower": read_tower(kind, whole)}


def _read_positions(config: Mapping[str, Any]) -> int:
    """The longest context: with YaRN the original positions times the factor."""
    positions = _whole(config, "max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "yarn":
        return positions
    factor = rope.get("factor", 1)
    if not isinstance(factor, int | float) or not 1 <= factor <= 1024:
        raise ValueError(f"rope_scaling.factor: expected a number of at least 1, not {factor!r}")
    return int(_whole(rope, "original_max_position_embeddings", positions) * factor)


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key}: expected a whole number of at least 1, not {value!r}")
    return value
