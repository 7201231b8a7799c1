"""Writes one checkpoint directory in the form that vLLM and transformers read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from serve_app.demo import SUMS
from serve_app.offline.demo.architecture import (
    Architecture,
    render_config,
    render_generation_config,
)
from serve_app.offline.demo.tokenizer import END_OF_TEXT, TURN_END, render_tokenizer_config

_TIED = "lm_head.weight"


def write_checkpoint(
    directory: Path, architecture: Architecture, tokenizer: Tokenizer, weights: Mapping[str, Tensor]
) -> None:
    """Every file that an engine needs; the sums come last and stand for the whole."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SUMS).unlink(missing_ok=True)
    vocab = tokenizer.get_vocab()
    end_of_text_id, eos_id = vocab[END_OF_TEXT], vocab[TURN_END]
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(directory / "tokenizer_config.json", render_tokenizer_config(tokenizer))
    _write_json(directory / "config.json", render_config(architecture, end_of_text_id, eos_id))
    _write_json(
        directory / "generation_config.json", render_generation_config(end_of_text_id, eos_id)
    )
    model = directory / "model.safetensors"
    save_file(_halve(weights), model, metadata={"format": "pt"})
    # safetensors keeps it to its owner, but a container may serve it as another user.
    model.chmod(0o644)
    (directory / SUMS).write_text(render_sums(directory), encoding="utf-8")


def render_sums(directory: Path) -> str:
    """In the form of `sha256sum`, of every file beside it."""
    files = sorted(path for path in directory.iterdir() if path.name != SUMS)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files
    )


def _halve(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In bfloat16; the output layer is the embedding and is not stored twice."""
    return {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in weights.items()
        if name != _TIED
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
