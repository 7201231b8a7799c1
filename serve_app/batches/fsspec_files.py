"""The bytes of files in a directory or in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import UnsupportedOperation
from typing import Any

import fsspec

from serve_app.batches.file_store import FileMissing, FileSink, FileStoreUnavailable

PART = ".part"


class FsspecFileStore:
    """A FileStore at any address that fsspec knows."""

    def __init__(self, address: str) -> None:
        """Raises FileStoreUnavailable where the place cannot be made."""
        with _failures():
            self._files, self._root = fsspec.core.url_to_fs(address)
            self._files.makedirs(self._root, exist_ok=True)

    @contextmanager
    def create(self, file_id: str, writer: str) -> Iterator[FileSink]:
        """Write a file, which is kept if the block does not raise.

        `writer` tells apart two that write the same file: the one that ends last wins.
        """
        part = f"{self._path(file_id)}.{writer}{PART}"
        try:
            with _failures(), self._files.open(part, "wb") as file:
                yield _GuardedSink(file)
                _sync(file)
            with _failures():
                self._files.mv(part, self._path(file_id))
        except BaseException:
            with suppress(OSError):
                self._files.rm(part)
            raise

    def read(self, file_id: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Some bytes of a file."""
        with _failures(), self._files.open(self._path(file_id), "rb") as file:
            file.seek(offset)
            found: bytes = file.read(-1 if size_bytes is None else size_bytes)
            return found

    def lines(self, file_id: str, line_bytes_max: int) -> Iterator[bytes]:
        """The lines with their ends; a longer line comes cut, as more than `line_bytes_max`."""
        with _failures(), self._files.open(self._path(file_id), "rb") as file:
            while line := file.readline(line_bytes_max + 1):
                yield line
                while len(line) > line_bytes_max and not line.endswith(b"\n"):
                    line = file.readline(line_bytes_max)

    def delete(self, file_id: str) -> None:
        """Remove a file; one that is not there is ignored."""
        with _failures(), suppress(FileNotFoundError):
            self._files.rm(self._path(file_id))

    def list_old(self, before: float) -> Sequence[str]:
        """The ids of all files, complete or not, that were written before a time."""
        with _failures():
            paths = self._files.ls(self._root, detail=False)
            old = [path for path in paths if self._files.modified(path).timestamp() < before]
        return [path.rsplit("/", 1)[-1] for path in old]

    def _path(self, file_id: str) -> str:
        return f"{self._root}/{file_id}"


class _GuardedSink:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, chunk: bytes) -> object:
        with _failures():
            return self._file.write(chunk)


def _sync(file: Any) -> None:
    """Put a local file onto the disk; an object store has its own way."""
    file.flush()
    try:
        number = file.fileno()
    except (AttributeError, UnsupportedOperation):
        return
    os.fsync(number)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileMissing("no such file") from error
    except OSError as error:
        raise FileStoreUnavailable(error.strerror or type(error).__name__) from error
