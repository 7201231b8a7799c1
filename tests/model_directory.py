"""A tiny model directory that has everything a real one has, to be damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 4,
    "bos_token_id": None,
    "eos_token_id": 3,
}
TEMPLATE = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"


def write_model(directory: Path) -> Path:
    """A directory in which nothing is wrong; without SHA256SUMS."""
    directory.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "config.json", CONFIG)
    write_json(directory / "generation_config.json", {"eos_token_id": [1, 2]})
    write_json(
        directory / "tokenizer_config.json", {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    )
    save_file({"embed": np.zeros((4, 2), np.float32)}, directory / "model.safetensors")
    (directory / "README.md").write_text("A model.")
    return directory


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
