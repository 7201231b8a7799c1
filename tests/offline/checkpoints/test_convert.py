"""Converting checkpoints: the tensors, the files beside them, and what is left after a failure."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from serve_app import demo
from serve_app.model_files.sums import SUMS_NAME, read_sums
from serve_app.offline.checkpoints.check import check_model
from serve_app.offline.checkpoints.convert import ConversionFailed, convert_checkpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The fast demo model as old checkpoints are: pickled, in float32."""
    directory = tmp_path / "source"
    shutil.copytree(demo.locate("fast"), directory)
    (directory / SUMS_NAME).unlink(missing_ok=True)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(
        {name: tensor.float() for name, tensor in tensors.items()}, directory / "pytorch_model.bin"
    )
    return directory


def original() -> dict[str, torch.Tensor]:
    return load_file(demo.locate("fast") / "model.safetensors")


def test_a_pickled_checkpoint_becomes_safetensors(source: Path, tmp_path: Path) -> None:
    """The same numbers, the same tokenizer to the byte, and a list of sums that holds."""
    dest = tmp_path / "dest"
    dest.mkdir()
    report = convert_checkpoint(source, dest, "bfloat16")
    assert (report.ok, report.directory) == (True, dest)
    converted = load_file(dest / "model.safetensors")
    assert converted.keys() == original().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in original().items())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (dest / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((dest / "generation_config.json").read_text())["eos_token_id"]
    assert read_sums(dest / SUMS_NAME).keys() == {path.name for path in dest.iterdir()} - {
        SUMS_NAME
    }
    assert check_model(dest).findings == []
    assert {oct(path.stat().st_mode & 0o444) for path in dest.iterdir()} == {"0o444"}


def test_the_type_can_be_chosen(source: Path, tmp_path: Path) -> None:
    """float16 instead of what the config says, in the weights and in the config."""
    convert_checkpoint(source, tmp_path / "new/dest", "float16")
    tensors = load_file(tmp_path / "new/dest/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert "float16" in (tmp_path / "new/dest/config.json").read_text()


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


def change_config(source: Path, **keys: object) -> None:
    config = json.loads((source / "config.json").read_text()) | keys
    (source / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda source: (source / "pytorch_model.bin").unlink(), "no file named"),
        (lambda source: change_config(source, num_hidden_layers=5), "missing keys"),
        (lambda source: change_config(source, num_hidden_layers=3), "unexpected keys"),
        (lambda source: change_config(source, intermediate_size=7), "mismatch"),
        (lambda source: change_config(source, architectures=["os"]), "'os', which transformers"),
        (lambda source: change_config(source, architectures=None), "transformers does not know"),
        (lambda source: change_config(source, auto_map={"AutoModel": "m.M"}), "auto_map"),
        (lambda source: (source / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (
            lambda source: (source / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb())),
            "cannot be converted",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # transformers warns of what is refused here
def test_a_failure_leaves_nothing(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    words: str,
) -> None:
    """No directory, no scratch, no random number in place of a weight, no code run."""
    monkeypatch.chdir(tmp_path)
    damage(source)
    with pytest.raises(ConversionFailed, match=words):
        convert_checkpoint(source, tmp_path / "dest")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """Ctrl-C while the result is hashed."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "dest", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_there_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    """A file, a full directory, and the source itself."""
    (tmp_path / "file").touch()
    for dest in (tmp_path / "file", source):
        with pytest.raises(ConversionFailed, match="exists already"):
            convert_checkpoint(source, dest)
