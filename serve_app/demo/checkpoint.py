"""Writes one checkpoint directory in the form that vLLM and transformers load."""

import json
from pathlib import Path

from safetensors.torch import save_file

from serve_app.demo.architecture import ARCHITECTURES, render_config, render_generation_config
from serve_app.demo.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    build_tokenizer,
    encode_whole_characters,
    load_corpus,
    render_tokenizer_config,
)
from serve_app.demo.weights import build_weights


def write_checkpoint(name: str, directory: Path) -> None:
    architecture = ARCHITECTURES[name]
    corpus = load_corpus()
    tokenizer = build_tokenizer(corpus)
    vocab = tokenizer.get_vocab()
    end_of_text_id, eos_id = vocab[END_OF_TEXT], vocab[TURN_END]
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(directory / "tokenizer_config.json", render_tokenizer_config(tokenizer))
    _write_json(directory / "config.json", render_config(architecture, end_of_text_id, eos_id))
    _write_json(
        directory / "generation_config.json", render_generation_config(end_of_text_id, eos_id)
    )
    weights = build_weights(architecture, encode_whole_characters(tokenizer, corpus))
    model = directory / "model.safetensors"
    save_file(weights, model, metadata={"format": "pt"})
    # safetensors keeps it to its owner, but a container may serve it as another user.
    model.chmod(0o644)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
