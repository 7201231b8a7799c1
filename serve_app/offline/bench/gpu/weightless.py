"""Model directories without weights: config.json and tokenizer of a known model's shape.

vLLM fills such a model with random numbers (`load_format: dummy`). Memory, matrix shapes and speed
are those of the real one; nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app import demo
from serve_app.config.tiers import TierConfig
from serve_app.offline.bench.gpu.gpu_errors import ShapeUnknown
from serve_app.offline.planning.models import ModelFacts, find_model

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
BESIDE = ("tokenizer_config.json", "generation_config.json")


def is_weightless(tier: TierConfig) -> bool:
    """Whether the engine makes the weights up."""
    return tier.engine.get("load_format") == "dummy"


def write_model(tier: TierConfig) -> Path | None:
    """Write the directory that a tier without weights names; what is there already stays.

    Returns None where the tier has weights.

    Raises:
        ShapeUnknown: the shipped table has no dense model of the tier's model id.
        OSError: the directory cannot be written.
    """
    directory = Path(tier.source)
    if not is_weightless(tier):
        return None
    if not (directory / CONFIG).is_file():
        found = find_model(tier.model_id)
        if found is None or found[0].experts or not directory.is_absolute():
            raise ShapeUnknown(tier.name, tier.model_id, tier.source)
        write_shape(directory, found[0])
    return directory


def write_shape(directory: Path, facts: ModelFacts) -> None:
    """All files but the weights; config.json comes last and stands for the whole."""
    donor = demo.locate("fast")
    directory.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        shutil.copyfile(donor / name, directory / name)
    tokenizer = json.loads((donor / TOKENIZER).read_text(encoding="utf-8"))
    _write(directory / TOKENIZER, widen_tokenizer(tokenizer, facts.vocabulary))
    special = json.loads((donor / CONFIG).read_text(encoding="utf-8"))
    _write(directory / CONFIG, render_config(facts, special))


def render_config(facts: ModelFacts, special: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as transformers wants it; the ids of special tokens are those of the donor."""
    kind = "qwen3" if facts.qk_norm else "qwen2"
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "bos_token_id": special["bos_token_id"],
        "eos_token_id": special["eos_token_id"],
        "head_dim": facts.head_dim,
        "hidden_act": "silu",
        "hidden_size": facts.hidden,
        "initializer_range": 0.02,
        "intermediate_size": facts.intermediate,
        "max_position_embeddings": facts.positions,
        "max_window_layers": facts.layers,
        "num_attention_heads": facts.heads,
        "num_hidden_layers": facts.layers,
        "num_key_value_heads": facts.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": facts.tied,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": facts.vocabulary,
    }


def widen_tokenizer(tokenizer: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """The donor's tokenizer with a text for every id that a random model may write."""
    # The special tokens too: they would get new ids behind the fillers otherwise.
    known = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocab = {**tokenizer["model"]["vocab"], **known}
    fillers = {f"<filler {number}>": number for number in range(len(vocab), vocabulary)}
    model = {**tokenizer["model"], "vocab": {**vocab, **fillers}}
    return {**tokenizer, "model": model}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
