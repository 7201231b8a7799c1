"""Hashing many files: the sums, the progress, and how it stops."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from serve_app.model_files.hashing import BUFFER_BYTES, hash_files


def test_the_sums_are_those_of_the_files(tmp_path: Path) -> None:
    """Empty, shorter, longer and just as long as a buffer; the progress ends at all of it."""
    sizes = {"a": 0, "b": 3, "c": BUFFER_BYTES, "d": 2 * BUFFER_BYTES + 1}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    seen: list[tuple[int, int]] = []
    sums = hash_files(tmp_path, sizes, lambda done, total: seen.append((done, total)))
    assert sums == {name: hashlib.sha256(b"x" * size).hexdigest() for name, size in sizes.items()}
    assert seen[-1] == (sum(sizes.values()),) * 2


def test_no_files_are_no_sums(tmp_path: Path) -> None:
    """Nothing to hash is no error."""
    assert hash_files(tmp_path, {}) == {}


def test_a_lost_file_is_an_error(tmp_path: Path) -> None:
    """It ends the whole, and names the file."""
    (tmp_path / "there").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="gone"):
        hash_files(tmp_path, {"there": 1, "gone": 1})


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    """Ctrl-C arrives in the progress; no thread reads on to the end of its file."""
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_files(tmp_path, {"large": 1 << 40}, interrupt)
