"""The feedback log on disk: append-only files in one directory that never outgrows its bound."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

FILES = "calls_*.jsonl"
"""The names of a feedback log's files; other files are not counted or deleted.
"""

FILE_BYTES_MAX = 64 * 1024 * 1024
PARTS = 8
"""A file is at most this fraction of the bound, so that deleting the oldest file loses little."""


class FeedbackStore:
    """One Router replica's files in a directory that it may share with other replicas."""

    def __init__(self, directory: Path, replica: str, bytes_max: int) -> None:
        self.directory = directory
        self._replica = replica
        self._bytes_max = bytes_max
        self._file_bytes_max = min(FILE_BYTES_MAX, bytes_max // PARTS)

    def write(self, lines: Sequence[bytes]) -> None:
        """Append all of the lines or none, and delete the oldest files to make room for them.

        The lines are on the disk when this returns, so that an acknowledged line survives a loss
        of power too. Blocks; only one thread at a time may call it.

        Raises:
            OSError: the directory or its disk cannot take the lines.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            for block in self._blocks(lines):
                self._make_room(len(block))
                self._append(block)

    def _blocks(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        """The lines in pieces that fit a file; a line that fits no file is left out."""
        block, size = list[bytes](), 0
        for line in lines:
            if block and size + len(line) > self._file_bytes_max:
                yield b"".join(block)
                block, size = [], 0
            if len(line) <= self._file_bytes_max:
                block.append(line)
                size += len(line)
        if block:
            yield b"".join(block)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock out other replicas, which may be about to make room as well."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _make_room(self, size: int) -> None:
        files = sorted(
            ((stat.st_mtime_ns, path, stat.st_size) for path, stat in self._stats()),
            key=lambda file: file[:2],
        )
        total = sum(file[2] for file in files)
        for _, path, file_size in files:
            if total + size <= self._bytes_max:
                return
            path.unlink(missing_ok=True)
            total -= file_size

    def _stats(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.directory.glob(FILES):
            with suppress(FileNotFoundError):  # another process has deleted the file
                yield path, path.stat(follow_symlinks=False)

    def _append(self, block: bytes) -> None:
        path = self.directory / f"calls_{self._replica}.jsonl"
        if path.exists() and path.stat().st_size + len(block) > self._file_bytes_max:
            self._rotate(path)
        is_new = not path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(path, flags, 0o600)
        try:
            _write_all(file, block, _cut_torn_line(file))
        finally:
            os.close(file)
        if is_new:
            _sync_directory(self.directory)

    def _rotate(self, path: Path) -> None:
        number = 1 + sum(1 for _ in self.directory.glob(f"calls_{self._replica}.*.jsonl"))
        while (rotated := path.with_suffix(f".{number}.jsonl")).exists():
            number += 1
        path.rename(rotated)


def _cut_torn_line(file: int) -> int:
    """Remove a line that a killed writer did not finish; returns the size of the file."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    whole = os.pread(file, size, 0).rfind(b"\n") + 1
    os.ftruncate(file, whole)
    return whole


def _write_all(file: int, block: bytes, size: int) -> None:
    """Write the block to the disk, or leave the file as long as it was."""
    try:
        view = memoryview(block)
        while view:
            view = view[os.write(file, view) :]
        os.fdatasync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _sync_directory(path: Path) -> None:
    """Make the name of a new file as durable as its contents."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
