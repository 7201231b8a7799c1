"""Model directories without weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig

from serve_app.config.tiers import TierConfig
from serve_app.offline.bench.gpu.gpu_errors import ShapeUnknown
from serve_app.offline.bench.gpu.weightless import write_model, write_shape
from serve_app.offline.planning.models import find_model, read_model


def tier(source: Path | str, model: str = "Qwen/Qwen2.5-72B-Instruct") -> TierConfig:
    return TierConfig(
        name="strong",
        model_id=model,
        model_source=str(source),
        engine={"load_format": "dummy"},
    )


@pytest.mark.parametrize("model", ["Qwen2.5-7B-Instruct", "Qwen2.5-72B-Instruct", "Qwen3-32B"])
def test_the_shape_is_the_real_one(model: str, tmp_path: Path) -> None:
    """What is read back from config.json is what the table says, to the last parameter."""
    found = find_model(model)
    assert found is not None
    write_shape(tmp_path, found[0])
    written, stated = read_model(tmp_path)
    assert replace(written, name="", source="") == replace(
        found[0], name="", source="", quantized_intermediate=None
    )
    assert stated == {}
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == found[0].vocabulary


def test_every_id_has_a_text(tmp_path: Path) -> None:
    """A random model writes any id; words and special tokens keep those of the demo tokenizer."""
    found = find_model("Qwen2.5-7B-Instruct")
    assert found is not None
    write_shape(tmp_path, replace(found[0], vocabulary=4096))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 4096
    assert all(tokenizer.id_to_token(number) for number in range(4096))
    assert tokenizer.decode([4095]) == "<filler 4095>"
    assert tokenizer.decode(tokenizer.encode("The capital of France").ids) == (
        "The capital of France"
    )
    special = json.loads((tmp_path / "config.json").read_text())["eos_token_id"]
    assert tokenizer.id_to_token(special) == "<|im_end|>"


def test_a_directory_that_is_there_stays(tmp_path: Path) -> None:
    """Nobody's model is written over."""
    (tmp_path / "config.json").write_text("{}")
    assert write_model(tier(tmp_path)) == tmp_path
    assert (tmp_path / "config.json").read_text() == "{}"
    assert write_model(TierConfig(name="fast", model_id="org/model")) is None


@pytest.mark.parametrize(
    ("source", "model"), [("relative", "Qwen/Qwen2.5-72B-Instruct"), ("/nowhere/x", "org/other")]
)
def test_what_cannot_be_written(source: str, model: str) -> None:
    """A shape that nobody told, or a place that is none."""
    with pytest.raises(ShapeUnknown, match="must be an absolute directory"):
        write_model(tier(source, model))
