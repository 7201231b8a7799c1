"""A training in seconds: a tiny random model learns a few answers by heart."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from serve_app import demo
from serve_app.core.outputs import OutputUnusable
from serve_app.model_files.integrity import check_sums, list_files
from serve_app.offline.distill.checkpoint import locate_base, read_model, read_tokenizer
from serve_app.offline.distill.distill_errors import (
    InvalidTrainingSet,
    TrainingDiverged,
    UnknownBase,
)
from serve_app.offline.distill.masking import encode_lesson, encode_lessons
from serve_app.offline.distill.packing import build_batch
from serve_app.offline.distill.teaching import Taught, teach
from serve_app.offline.distill.training import (
    Recipe,
    Step,
    add_adapter,
    answer_loss,
    choose_rate,
)
from serve_app.offline.distill.training_set import Lesson, Message, render_lesson

QUICK = Recipe(epochs=30, learning_rate=1e-2, batch_tokens=256, row_tokens=64)
LESSONS = [Lesson((Message("user", f"{n} + {n}?"),), f"{n} + {n} = {2 * n}") for n in range(8)]


@pytest.fixture(scope="module")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("set")
    (directory / "train.jsonl").write_bytes(b"".join(map(render_lesson, LESSONS)))
    (directory / "validation.jsonl").write_bytes(render_lesson(LESSONS[0]))
    return directory


@pytest.fixture(scope="module")
def taught(training_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Taught, Path]:
    """The demo's fast model, which says `= 4` and not `2 + 2 = 4`, after thirty steps."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("out")
    steps: list[Step] = []
    result = teach(
        training_set, "demo:fast", out / "adapter", out / "merged", QUICK, "cpu", steps.append
    )
    assert [step.number for step in steps] == list(range(1, result.steps + 1))
    return result, out


def loss_of(model: object, lesson: Lesson) -> float:
    encoded = encode_lesson(read_tokenizer("demo:fast"), lesson)
    batch = build_batch([[encoded]], 0)
    with torch.no_grad():
        found = model(input_ids=batch.ids, attention_mask=torch.ones_like(batch.ids))  # type: ignore[operator]
    logits, wanted = found.logits.float(), batch.labels >= 0
    return float(torch.nn.functional.cross_entropy(logits[wanted], batch.labels[wanted]))


def test_the_loss_falls(taught: tuple[Taught, Path]) -> None:
    """On the lessons, and on the one that watches, which is among them here."""
    result, _ = taught
    assert result.validation_loss_before is not None
    assert result.validation_loss is not None
    assert result.validation_loss < result.validation_loss_before / 4
    assert result.lessons == 8
    assert result.learnt_tokens < result.tokens


# peft 0.21 reads a name that transformers 5 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapter_and_checkpoint_answer_alike(taught: tuple[Taught, Path]) -> None:
    """The merged weights are the base's plus the adapter, rounded to the base's type."""
    _, out = taught
    base = AutoModelForCausalLM.from_pretrained(demo.locate("fast"), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, out / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    assert isinstance(merged, Qwen3ForCausalLM)
    assert loss_of(merged, LESSONS[3]) == pytest.approx(loss_of(adapted, LESSONS[3]), abs=0.05)


def test_the_checkpoint_is_complete(taught: tuple[Taught, Path]) -> None:
    """Config, tokenizer and template of the base, and sums that hold; the record is beside them."""
    _, out = taught
    merged = out / "merged"
    base = demo.locate("fast")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    lines = (merged / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert check_sums(merged, sums, list_files(merged)) == []
    assert "model.safetensors" in sums
    record = orjson.loads((out / "adapter" / "training.json").read_bytes())
    assert record["base"] == "demo:fast"
    assert record["recipe"]["rank"] == 16
    assert len(record["train_sha256"]) == 64


def test_packing_changes_no_loss(training_set: Path) -> None:
    """Lessons of one row do not see each other, so the loss is that of each by itself."""
    tokenizer = read_tokenizer("demo:fast")
    encoded, _ = encode_lessons(tokenizer, LESSONS, 64)
    model = add_adapter(read_model("demo:fast", torch.float32), QUICK).eval()
    with torch.no_grad():
        packed = answer_loss(model, build_batch([encoded], 0), "cpu").item()
        alone = [answer_loss(model, build_batch([[one]], 0), "cpu").item() for one in encoded]
    tokens = [one.answer_tokens for one in encoded]
    mean = sum(loss * count for loss, count in zip(alone, tokens, strict=True)) / sum(tokens)
    assert packed == pytest.approx(mean, rel=0.02)


def test_the_rate_rises_and_falls() -> None:
    """To its highest value after the warm-up, then down to nearly nothing."""
    rates = [choose_rate(step, 100) for step in range(1, 101)]
    assert max(rates) == rates[4] == 1.0
    assert rates[0] < rates[3]
    assert 0 < rates[-1] < 0.01


@pytest.mark.parametrize(
    ("base", "says"),
    [("demo:weak", "only fast, strong, embed and rerank"), ("/nowhere", "is no directory here")],
)
def test_an_unknown_base(base: str, says: str) -> None:
    """The error names the option, what is wrong, and what is expected."""
    with pytest.raises(UnknownBase, match=f"--base {base}: .*{says}.*; expected `demo:fast`, or"):
        locate_base(base)


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    """A config alone has neither tokenizer nor weights."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(UnknownBase, match="its tokenizer has no chat template"):
        read_tokenizer(str(tmp_path))
    with pytest.raises(UnknownBase, match="weights cannot be read"):
        read_model(str(tmp_path), torch.float32)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "line 1: the line: expected JSON"),
        (b'{"messages": []}', "messages: expected a list of at least two"),
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
         "expected an answer of the role `assistant`"),
        (b'{"messages": [{"role": "me", "content": "a"}, {"role": "user", "content": "b"}]}',
         "role: expected one of system"),
    ],
)  # fmt: skip
def test_a_training_set_that_cannot_be_used(tmp_path: Path, line: bytes, says: str) -> None:
    """The error names the file, the line, the key and the expected value."""
    (tmp_path / "train.jsonl").write_bytes(line)
    with pytest.raises(InvalidTrainingSet, match=says):
        teach(tmp_path, "demo:fast", tmp_path / "a", None, QUICK, "cpu", lambda _: None)


def test_a_training_that_diverges_writes_nothing(training_set: Path, tmp_path: Path) -> None:
    """The error says which step, and what to lower."""
    wild = Recipe(learning_rate=1e30, epochs=9, batch_tokens=64, row_tokens=64)
    with pytest.raises(TrainingDiverged, match="Lower --learning-rate"):
        teach(training_set, "demo:fast", tmp_path / "a", None, wild, "cpu", lambda _: None)
    assert not (tmp_path / "a").exists()


def test_a_disk_that_takes_nothing(training_set: Path, tmp_path: Path) -> None:
    """The error names the path; an earlier result stays."""
    (tmp_path / "file").write_text("")
    short = Recipe(steps_max=1, row_tokens=64)
    out = tmp_path / "file" / "adapter"
    with pytest.raises(OutputUnusable, match="file"):
        teach(training_set, "demo:fast", out, None, short, "cpu", lambda _: None)
