"""The feedback log on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from serve_app.feedback.store import FeedbackStore

LINE = b'{"kind":"call"}' + b" " * 1000 + b"\n"


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.jsonl"))


def test_only_the_service_can_read_it(tmp_path: Path) -> None:
    """The directory is made, with 0700, and its files have 0600, whatever the umask."""
    store = FeedbackStore(tmp_path / "a" / "b", "r1", 1 << 20)
    store.write([b"1\n", b"2\n"])
    store.write([b"3\n"])
    [path] = store.directory.iterdir()
    assert path.name == "calls_r1.jsonl"
    assert path.read_bytes() == b"1\n2\n3\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_it_never_outgrows_its_bound(tmp_path: Path) -> None:
    """Two replicas share the directory; the oldest files go, the newest line is there."""
    bytes_max = 64 * len(LINE)
    stores = [FeedbackStore(tmp_path, name, bytes_max) for name in ("r1", "r2")]
    for number in range(150):
        last = LINE.replace(b"call", b"%04d" % number)
        stores[number % 2].write([last])
        assert size_of(tmp_path) <= bytes_max
        assert any(last in path.read_bytes() for path in tmp_path.iterdir())
    assert size_of(tmp_path) > bytes_max // 2


def test_one_large_write_is_split(tmp_path: Path) -> None:
    """Into files, and the newest lines of it are kept; a line that fits no file is left out."""
    bytes_max = 64 * len(LINE)
    huge = b"x" * bytes_max + b"\n"
    FeedbackStore(tmp_path, "r1", bytes_max).write([huge, *[LINE] * 200, b"last\n"])
    assert size_of(tmp_path) <= bytes_max
    assert b"last\n" in (tmp_path / "calls_r1.jsonl").read_bytes()
    assert all(path.read_bytes().endswith(b"\n") for path in tmp_path.iterdir())


def test_what_is_not_its_own_stays(tmp_path: Path) -> None:
    """Other files in the directory are neither counted nor deleted."""
    other = tmp_path / "precious.jsonl"
    other.write_bytes(LINE * 1000)
    FeedbackStore(tmp_path, "r1", 16 * len(LINE)).write([LINE] * 100)
    assert other.stat().st_size == 1000 * len(LINE)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """It is a file: the caller gets the system's error."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        FeedbackStore(tmp_path / "file", "r1", 1 << 20).write([LINE])


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Who may write to the directory must not make the service append to files elsewhere."""
    target = tmp_path / "target"
    target.touch()
    directory = tmp_path / "log"
    directory.mkdir()
    (directory / "calls_r1.jsonl").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        FeedbackStore(directory, "r1", 1 << 20).write([LINE])
    assert target.read_bytes() == b""


def test_a_disk_that_fills_up_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written of a block is taken back."""
    store = FeedbackStore(tmp_path, "r1", 1 << 20)
    store.write([b"1\n"])
    write, room = os.write, [3]

    def write_little(file: int, data: memoryview) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(file, data[: room.pop()])

    monkeypatch.setattr(os, "write", write_little)
    with pytest.raises(OSError, match="No space left"):
        store.write([b"22222\n"])
    assert (tmp_path / "calls_r1.jsonl").read_bytes() == b"1\n"


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """A writer that was killed in a line does not spoil the next line."""
    path = tmp_path / "calls_r1.jsonl"
    path.write_bytes(b"1\n2\n{tor")
    FeedbackStore(tmp_path, "r1", 1 << 20).write([b"3\n"])
    assert path.read_bytes() == b"1\n2\n3\n"
