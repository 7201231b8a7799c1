"""What the place of files' bytes can do, and how it fails. All of it blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol


class FileStoreUnavailable(Exception):
    """The place of the files cannot be read or written, or is full."""


class FileMissing(FileStoreUnavailable):
    """The file is not there, although the ledger knows it."""


class FileSink(Protocol):
    """A file that is being written."""

    def write(self, chunk: bytes) -> object:
        """Add bytes at the end.

        Raises:
            FileStoreUnavailable: they could not be written.
        """
        ...


class FileStore(Protocol):
    """Files by their ids. A file is there as a whole or not at all.

    Every method may raise FileStoreUnavailable.
    """

    def create(self, file_id: str, writer: str) -> AbstractContextManager[FileSink]:
        """Write a file, which is kept if the block does not raise.

        `writer` tells apart two that write the same file: the one that ends last wins.
        """
        ...

    def read(self, file_id: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Some bytes of a file."""
        ...

    def lines(self, file_id: str, line_bytes_max: int) -> Iterator[bytes]:
        """The lines with their ends; a longer line comes cut, as more than `line_bytes_max`."""
        ...

    def delete(self, file_id: str) -> None:
        """Remove a file; one that is not there is ignored."""
        ...

    def list_old(self, before: float) -> Sequence[str]:
        """The ids of all files, complete or not, that were written before a time."""
        ...
