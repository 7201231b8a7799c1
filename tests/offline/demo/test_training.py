"""The trainer in small: a few steps, stopped and resumed, and what is written at the end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from serve_app.offline.demo import testset
from serve_app.offline.demo.architecture import ARCHITECTURES
from serve_app.offline.demo.batches import IGNORED, Batches, Position
from serve_app.offline.demo.checkpoint import write_checkpoint
from serve_app.offline.demo.diet import DIETS
from serve_app.offline.demo.probe import (
    accuracy,
    probe,
    read_test_questions,
    render_table,
    to_question,
)
from serve_app.offline.demo.testset import (
    TESTSET,
    draw_testset,
    read_questions,
    render_testset,
)
from serve_app.offline.demo.train import main
from serve_app.offline.demo.training import RECIPES, Review, Trainer, choose_rate

SHORT = replace(RECIPES["fast"], steps=2, batch_tokens=256, review=Review(2, 1e-3))


def run(trainer: Trainer, steps: int) -> None:
    for _, _ in zip(range(steps), trainer.run(), strict=False):
        pass


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_resumed_training_ends_with_the_same_weights(
    tokenizer: Tokenizer, tmp_path: Path, steps: int
) -> None:
    """Weights, optimizers, schedule and data go on where they were saved, in either pass."""
    whole = Trainer(SHORT, tokenizer, "cpu")
    run(whole, 9)
    first = Trainer(SHORT, tokenizer, "cpu")
    run(first, steps)
    first.save(tmp_path / "state.pt")
    second = Trainer(SHORT, tokenizer, "cpu")
    second.resume(tmp_path / "state.pt")
    run(second, 9)
    assert second.progress.step == whole.progress.step == 4
    assert second.share_done == 1
    assert second.progress.position == whole.progress.position
    expected = whole.model.state_dict()
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_batches_go_on_from_any_position(tokenizer: Tokenizer) -> None:
    """The batch that a position names is the same, whether or not the earlier ones were drawn."""
    batches = Batches(tokenizer, DIETS["fast"], seed="1", batch_tokens=4096)
    stream = batches.iterate(Position())
    early = [next(stream) for _ in range(3)]
    again = next(batches.iterate(early[1].next))
    assert torch.equal(again.ids, early[2].ids)
    assert torch.equal(again.labels, early[2].labels)


def test_batches_keep_to_their_size(tokenizer: Tokenizer) -> None:
    """None is larger than asked for, and each teaches something."""
    stream = Batches(tokenizer, DIETS["strong"], "1", 4096).iterate(Position())
    for _ in range(40):
        batch = next(stream)
        assert batch.ids.numel() <= 4096
        assert (batch.labels != IGNORED).any()


@pytest.mark.parametrize(
    ("step", "share_done", "rate"), [(0, 0.0, 0.01), (99, 0.0, 1.0), (500, 0.75, 0.5), (500, 1, 0)]
)
def test_the_rate_rises_stays_and_falls(step: int, share_done: float, rate: float) -> None:
    """It reaches its height after the warm-up and nothing at the end."""
    assert choose_rate(step, share_done, decay_share=0.5) == pytest.approx(rate)


def test_the_command_writes_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows a probe at the end, and transformers loads what it wrote."""
    out, work = tmp_path / "out", tmp_path / "work"
    options = ["--model", "fast", "--steps", "1", "--device", "cpu"]
    main([*options, "--out", str(out), "--work", str(work)])
    assert "probe" in capsys.readouterr().out
    assert Qwen3ForCausalLM.from_pretrained(out / "fast").config.vocab_size == 2048
    main([*options, "--out", str(out), "--work", str(work)])
    assert "resumed at step 1" in capsys.readouterr().out


def test_a_probe_judges_every_question(tokenizer: Tokenizer) -> None:
    """An untrained model is wrong, and the table says so by level."""
    questions = [to_question(example) for example in draw_testset(share=0.02)]
    judged = list(probe(Trainer(SHORT, tokenizer, "cpu").model, tokenizer, questions))
    assert len(judged) == len(questions)
    assert sum(right for right, _ in accuracy(judged, "level").values()) == 0
    assert "easy" in render_table(judged)


def test_the_committed_set_is_the_drawn_one() -> None:
    """Anybody can write it again; half of it is easy and half hard."""
    assert TESTSET.read_text(encoding="utf-8") == render_testset()
    levels = [question.tags["level"] for question in read_test_questions(TESTSET)]
    assert (levels.count("easy"), levels.count("hard")) == (200, 200)


def test_other_questions_of_the_same_kinds(tmp_path: Path) -> None:
    """Of any number of seeds, each question once, and none of the held-out ones."""
    path = tmp_path / "traffic.jsonl"
    testset.main(["--seed", "23", "20", "23", "--without", str(TESTSET), "--out", str(path)])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert 380 <= len(lines) < 400
    assert read_questions(path).isdisjoint(read_questions(TESTSET))
    assert len(read_questions(path)) == len(lines)


def test_written_weights_are_halved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """What an engine loads is the trained model in bfloat16."""
    model = Trainer(SHORT, tokenizer, "cpu").model
    write_checkpoint(tmp_path, ARCHITECTURES["fast"], tokenizer, model.state_dict())
    loaded = Qwen3ForCausalLM.from_pretrained(tmp_path)
    expected = model.model.norm.weight.to(torch.bfloat16)
    assert torch.equal(loaded.model.norm.weight, expected)
