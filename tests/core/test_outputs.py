"""Files that a long piece of work ends in are looked at before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.core.outputs import OutputUnusable, check_file, make_directory


def test_a_new_file_is_tried_and_gone_again(tmp_path: Path) -> None:
    """The check leaves nothing behind."""
    check_file(tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_keeps_what_it_holds(tmp_path: Path) -> None:
    """An old result is replaced at the end of the work, not before."""
    old = tmp_path / "old.json"
    old.write_text("old")
    check_file(old)
    assert old.read_text() == "old"


def test_a_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    """And is empty."""
    make_directory(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("check", "path", "reason"),
    [
        (check_file, "missing/new.json", "No such file or directory"),
        (check_file, "directory", "Is a directory"),
        (check_file, "file/new.json", "Not a directory"),
        (make_directory, "file", "File exists"),
        (make_directory, "file/below", "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_named(
    tmp_path: Path, check: Callable[[Path], None], path: str, reason: str
) -> None:
    """With the reason that the system gives."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnusable, match=f"{path} cannot be written: {reason}"):
        check(tmp_path / path)
