"""The committed checkpoints: complete, unaltered, and of the promised size and shape."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from serve_app.demo import NAMES, READERS, SUMS, CheckpointMissing, locate
from serve_app.offline.demo.architecture import (
    ARCHITECTURES,
    render_config,
    render_generation_config,
)
from serve_app.offline.demo.checkpoint import render_sums
from serve_app.offline.demo.retrieval import end_texts
from serve_app.offline.demo.tokenizer import END_OF_TEXT, TURN_END, render_tokenizer_config

FILES = {
    "SHA256SUMS",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
BYTES_MAX = 25_000_000
ALL = NAMES + READERS


@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_is_complete_and_unaltered(name: str) -> None:
    """Every file is there, no other, and each has the sum that was written with it."""
    directory = locate(name)
    assert {path.name for path in directory.iterdir()} == FILES
    assert (directory / SUMS).read_text() == render_sums(directory)


def test_the_checkpoints_are_small() -> None:
    """All together are small enough for a repository."""
    files = [path for name in ALL for path in locate(name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= BYTES_MAX


@pytest.mark.parametrize(
    ("name", "parameters_min", "parameters_max"),
    [
        ("fast", 1_000_000, 2_000_000),
        ("strong", 6_000_000, 10_000_000),
        ("embed", 200_000, 400_000),
        ("rerank", 200_000, 400_000),
    ],
)
def test_weights_fit_the_architecture(name: str, parameters_min: int, parameters_max: int) -> None:
    """Names and shapes are those of transformers' own Qwen3, in bfloat16, of the promised size."""
    tensors = load_file(locate(name) / "model.safetensors")
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config.from_pretrained(locate(name)))
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    # The output layer is the embedding.
    del expected["lm_head.weight"]
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert parameters_min <= sum(tensor.numel() for tensor in tensors.values()) <= parameters_max


@pytest.mark.parametrize("name", ALL)
def test_the_files_are_those_that_the_sources_write(name: str, tokenizer: Tokenizer) -> None:
    """Whoever changes the skills, the tokenizer or the shapes has to train the models again."""
    directory, vocab = locate(name), tokenizer.get_vocab()
    ends = vocab[END_OF_TEXT], vocab[TURN_END]
    config = render_config(ARCHITECTURES[name], *ends)
    assert json.loads((directory / "config.json").read_text()) == config
    written = json.loads((directory / "generation_config.json").read_text())
    assert written == render_generation_config(*ends)
    written = json.loads((directory / "tokenizer_config.json").read_text())
    assert written == render_tokenizer_config(tokenizer)
    ours = Tokenizer.from_file(str(directory / "tokenizer.json"))
    own = end_texts(tokenizer) if name == "embed" else tokenizer
    assert ours.to_str() == own.to_str()


@pytest.mark.parametrize("name", ALL)
def test_two_workers_can_share_a_model(name: str) -> None:
    """Everything that tensor parallelism splits divides by two."""
    config = json.loads((locate(name) / "config.json").read_text())
    split = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    assert [config[key] % 2 for key in split] == [0, 0, 0, 0]
    assert config["max_position_embeddings"] == 32768


def test_locate_says_what_to_run(tmp_path: Path) -> None:
    """A missing checkpoint names the command that makes it, also after crossing a process."""
    with pytest.raises(
        FileNotFoundError, match=r"python -m serve_app\.offline\.demo\.train"
    ) as caught:
        locate("fast", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"serve_app\.offline\.demo\.retrieval"):
        locate("rerank", tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_locate_refuses_an_unknown_name() -> None:
    """An unknown name lists the known ones, and no path can be smuggled in as a name."""
    with pytest.raises(CheckpointMissing, match=r"'../fast', only fast, strong, embed and rerank"):
        locate("../fast")
