"""The models that read, in small: what is drawn, what is learnt, what is written."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from serve_app.demo import READERS, locate
from serve_app.offline.demo.retrieval import (
    Fact,
    Reader,
    ReadingRecipe,
    count_found,
    draw_facts,
    end_texts,
    find_likest,
    make,
    train,
)
from serve_app.offline.demo.tokenizer import END_OF_TEXT

SHORT = ReadingRecipe(steps=2, learning_rate=1e-3)


def test_facts_are_all_different() -> None:
    """In a step, another fact is always a wrong answer."""
    facts = draw_facts(Random(1), "train", 30)
    assert len({fact.statement for fact in facts}) == 30


def test_the_likest_other_fact_is_of_the_same_kind() -> None:
    """It is the hardest wrong answer."""
    japan = Fact("Capital of Japan?", "The capital of Japan is Tokyo.")
    france = Fact("Capital of France?", "The capital of France is Paris.")
    iron = Fact("Symbol of iron?", "The chemical symbol for iron is Fe.")
    assert find_likest(japan, [iron, japan, france]) == france


def test_an_embedded_text_ends_with_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    """Its state is the vector, as with Qwen3-Embedding."""
    ids = end_texts(tokenizer).encode("Hello").ids
    assert ids[:-1] == tokenizer.encode("Hello").ids
    assert ids[-1] == tokenizer.token_to_id(END_OF_TEXT)


@torch.inference_mode()
def test_padding_changes_no_state(tokenizer: Tokenizer) -> None:
    """A text has the same vector alone and beside a longer one."""
    reader = Reader("embed", end_texts(tokenizer))
    alone, beside = reader.vectors(["Hello"]), reader.vectors(["Hello", "Hello there, all of you"])
    torch.testing.assert_close(alone[0], beside[0])


@pytest.mark.parametrize("name", READERS)
def test_a_training_repeats_itself(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The same seed gives the same losses; a checkpoint is written as for the other models."""
    losses = [list(train(name, Reader(name, tokenizer), SHORT)) for _ in range(2)]
    assert losses[0] == losses[1]
    make(name, tokenizer, SHORT, tmp_path)
    written = load_file(tmp_path / name / "model.safetensors")
    shipped = load_file(locate(name) / "model.safetensors")
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in shipped.items()}


@pytest.mark.parametrize(("name", "found_min"), [("embed", 95), ("rerank", 20)])
def test_the_shipped_models_find_facts(name: str, found_min: int, tokenizer: Tokenizer) -> None:
    """Of 100 held-out questions, each with its own fact among 20; chance finds five."""
    reader = Reader(name, end_texts(tokenizer) if name == "embed" else tokenizer)
    weights = load_file(locate(name) / "model.safetensors")
    reader.model.load_state_dict(weights, strict=False)
    asked = draw_facts(Random(11), "test", 100)
    assert count_found(name, reader, asked, candidates=20) >= found_min
