"""What a replica checks before its engine starts: the weights that the config pins."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.model_files.integrity import make_sums
from serve_app.model_files.pinned import ModelFilesRefused, check_pinned, default_stamps
from serve_app.model_files.sums import write_sums


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    return tmp_path / "stamps"


def test_the_right_weights_are_hashed_once(model: Path, stamps: Path) -> None:
    """The next replica on the node finds the note; after a new start of the node all is read."""
    sums = make_sums(model)
    hashed = [check_pinned(model, sums, node, stamps) for node in ("n1", "n1", "n2", "n2")]
    assert hashed == [True, False, True, False]


@pytest.mark.parametrize("where", ["SHA256SUMS", "{model}/SHA256SUMS"])
def test_the_list_may_be_a_file(model: Path, stamps: Path, where: str) -> None:
    """By a path from the model's directory, or by an absolute one."""
    write_sums(model, make_sums(model))
    assert check_pinned(model, where.format(model=model), "n1", stamps)


def test_a_changed_file_is_refused(model: Path, stamps: Path) -> None:
    """Also after a good start, and with a message that has all an operator needs."""
    sums = make_sums(model)
    check_pinned(model, sums, "n1", stamps)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    for _ in range(2):  # A refusal is not remembered as a success.
        with pytest.raises(ModelFilesRefused) as caught:
            check_pinned(model, sums, "n1", stamps)
    message = str(caught.value)
    found = make_sums(model)["model.safetensors"]
    parts = [str(model), "model.safetensors", sums["model.safetensors"], found, "copy the file"]
    assert [part for part in parts if part not in message] == []
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "config.json").unlink(), "config.json: in the list of sums, but"),
        (lambda model: (model / "new.safetensors").touch(), "new.safetensors: not in the list"),
        (lambda model: (model / "x.json").symlink_to("/dev/zero"), "x.json: a link that leaves"),
    ],
)
def test_another_set_of_files_is_refused(
    model: Path, stamps: Path, damage: Callable[[Path], object], words: str
) -> None:
    """An engine would load what nobody vouches for."""
    sums = make_sums(model)
    check_pinned(model, sums, "n1", stamps)
    damage(model)
    with pytest.raises(ModelFilesRefused, match=words):
        check_pinned(model, sums, "n1", stamps)


def test_a_missing_list_is_refused(model: Path, stamps: Path) -> None:
    """A pin that cannot be read pins nothing, so nothing starts."""
    with pytest.raises(ModelFilesRefused, match="SHA256SUMS: cannot be read"):
        check_pinned(model, "SHA256SUMS", "n1", stamps)


def test_a_long_story_is_cut(model: Path, stamps: Path) -> None:
    """Serve shows the message whole; a directory of another model would fill pages."""
    with pytest.raises(ModelFilesRefused, match="and 4 more"):
        check_pinned(model, {f"{number}": "0" * 64 for number in range(4)}, "n1", stamps)


def test_the_notes_are_for_their_owner(model: Path, stamps: Path) -> None:
    """Another user of the machine can neither write one nor put a directory in their place."""
    check_pinned(model, make_sums(model), "n1", stamps)
    assert stamps.stat().st_mode & 0o077 == 0
    assert default_stamps() == default_stamps()
