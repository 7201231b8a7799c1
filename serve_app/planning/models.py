"""The shape of a model, by its config.json or the shipped table, and what follows from it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from serve_app.planning.errors import PlanningFailed
from serve_app.weights.files import load_json_object

TABLE = Path(__file__).with_name("models.toml")
KNOWN_TYPES = ("qwen2", "qwen3", "qwen3_moe", "llama", "mistral")
_BIASED = ("qwen2",)
_NORMED = ("qwen3", "qwen3_moe")

_NAME = re.compile(
    r"(?P<model>Qwen(?:2\.5|3)-[\dA-Z.]+B(?:-A\d+B)?)"
    r"(?:-(?P<kind>Base|Instruct|(?:Instruct|Thinking)-2507))?"
    r"(?:-(?P<quantization>AWQ|GPTQ-Int[48]|FP8(?:-dynamic)?|quantized\.w(?:8a8|4a16)))?"
)


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
    quantized_intermediate: int | None = None
    """The intermediate size of the AWQ and GPTQ checkpoints, where it differs."""

    @property
    def embedding(self) -> int:
        """Elements of one embedding matrix; the output head has as many."""
        return self.vocabulary * self.hidden

    @property
    def attention(self) -> int:
        """Matrix elements of one layer's attention."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def expert(self) -> int:
        """Matrix elements of one expert."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def small(self) -> int:
        """Biases, norms and router of one layer: what no scheme quantises."""
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return bias + norms + self.hidden * self.experts

    @property
    def parameters(self) -> int:
        """All of them; a tied output head is counted once."""
        return self._count(self.experts)

    @property
    def active_parameters(self) -> int:
        """Those that one token meets, embeddings included."""
        return self._count(self.active_experts)

    def _count(self, experts: int) -> int:
        mlp = self.expert * experts if self.experts else 3 * self.hidden * self.intermediate
        body = self.layers * (self.attention + mlp + self.small) + self.hidden
        return body + self.embedding * (1 if self.tied else 2)


def find_model(name: str) -> tuple[ModelFacts, str | None] | None:
    """Look a name such as `Qwen/Qwen2.5-72B-Instruct-AWQ` up in the shipped table.

    Returns the facts and the quantisation that the name states; None for an unknown name.
    """
    match = _NAME.fullmatch(name.rstrip("/").rsplit("/", 1)[-1])
    row = _load_table()["models"].get(match["model"]) if match else None
    if match is None or row is None:
        return None
    positions = _choose_positions(row, match["kind"] or "")
    if positions is None:
        return None
    family = _load_table()["families"][match["model"].partition("-")[0]]
    facts = ModelFacts(
        name=match["model"],
        source=family["source"],
        positions=positions,
        head_dim=family["head_dim"] or row["hidden"] // row["heads"],
        qkv_bias=family["qkv_bias"],
        qk_norm=family["qk_norm"],
        **{key: row[key] for key in row.keys() & _FROM_ROW},
    )
    return facts, match["quantization"]


_FROM_ROW = {
    "layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "tied", "experts",
    "active_experts", "expert_intermediate", "quantized_intermediate",
}  # fmt: skip


def _choose_positions(row: Mapping[str, Any], kind: str) -> int | None:
    """max_position_embeddings of this kind; None if there is no such model."""
    key = {"Base": "base_positions"}.get(kind, "positions")
    if kind.endswith("2507"):
        return int(row["positions_2507"]) if "positions_2507" in row else None
    return int(row.get(key, row["positions"]))


def list_models() -> list[str]:
    """The names in the shipped table."""
    return list(_load_table()["models"])


def published_parameters(name: str) -> tuple[float, float | None]:
    """What others count: all parameters, and the active ones of a mixture of experts."""
    row = _load_table()["models"][name]
    return float(row["published"]), row.get("published_active")


@cache
def _load_table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def load_model(directory: Path) -> tuple[ModelFacts, Mapping[str, Any]]:
    """Read a directory's config.json: the facts, and its `quantization_config` (or nothing).

    Raises:
        PlanningFailed: it cannot be read, or is of a kind that is not known here.
    """
    path = directory / "config.json"
    try:
        config = load_json_object(path)
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
    heads, hidden = _whole(config, "num_attention_heads"), _whole(config, "hidden_size")
    experts = _whole(config, "num_experts") if kind == "qwen3_moe" else 0
    if experts and (config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1):
        raise ValueError("mlp_only_layers and decoder_sparse_step mix dense and expert layers here")
    return ModelFacts(
        name=name,
        source=name,
        layers=_whole(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        head_dim=_whole(config, "head_dim", hidden // heads),
        intermediate=_whole(config, "intermediate_size"),
        vocabulary=_whole(config, "vocab_size"),
        positions=_read_positions(config),
        tied=config.get("tie_word_embeddings") is True,
        qkv_bias=kind in _BIASED,
        qk_norm=kind in _NORMED,
        experts=experts,
        active_experts=_whole(config, "num_experts_per_tok") if experts else 0,
        expert_intermediate=_whole(config, "moe_intermediate_size") if experts else 0,
    )


def _read_positions(config: Mapping[str, Any]) -> int:
    """The longest context: with YaRN the original positions times the factor."""
    positions = _whole(config, "max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "yarn":
        return positions
    factor = rope.get("factor", 1)
    if not isinstance(factor, int | float) or not 1 <= factor <= 1024:
        raise ValueError(f"rope_scaling.factor: expected a number from 1 on, not {factor!r}")
    return int(_whole(rope, "original_max_position_embeddings", positions) * factor)


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key}: expected a whole number from 1 on, not {value!r}")
    return value
