"""The files of an audit log: their names, and appending all of some bytes or none."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

PLAIN = ".jsonl"
PACKED = ".jsonl.gz"
SEALS = ".seals"
LOCK = ".lock"
STATE = ".seal"
UNFINISHED = ".unfinished"
LINE_BYTES_MAX = 64 * 1024 * 1024
"""A longer line is no record, and is not read into memory."""

_NAME = re.compile(r"(?P<chain>[A-Za-z0-9.-]{1,200})\.(?P<number>\d{6,9})\.jsonl(?:\.gz)?")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9-]")


@dataclass(frozen=True, slots=True, order=True)
class LogFile:
    """One file of a chain; the numbers of a chain's files begin with 1."""

    chain: str
    number: int
    path: Path

    @property
    def packed(self) -> bool:
        """Whether the file is compressed."""
        return self.path.suffix == ".gz"

    def lines(self) -> Iterator[bytes]:
        """The lines with their ends; the last line of a file may lack its end.

        Raises:
            OSError, EOFError, zlib.error: the file cannot be read or decompressed.
        """
        with self._open() as file:
            while line := file.readline(LINE_BYTES_MAX):
                yield line

    def _open(self) -> IO[bytes]:
        if not self.packed:
            with suppress(FileNotFoundError):  # a Router has just compressed it
                return self.path.open("rb")
        return cast(IO[bytes], gzip.open(packed_path(self.path)))


def plain_path(directory: Path, chain: str, number: int) -> Path:
    """The path of a file that is not compressed."""
    return directory / f"{chain}.{number:06}{PLAIN}"


def packed_path(path: Path) -> Path:
    """The path of a file after its compression."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(PLAIN) + PACKED)


def find_logs(directory: Path) -> dict[str, list[LogFile]]:
    """The files of each chain in a directory, in the order of their numbers.

    Raises:
        OSError: the directory cannot be read.
    """
    found: dict[str, list[LogFile]] = {}
    for path in sorted(directory.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            file = LogFile(name["chain"], int(name["number"]), path)
            found.setdefault(file.chain, []).append(file)
    return {chain: sorted(files) for chain, files in found.items()}


def chain_name(host: str, slot: int) -> str:
    """The name of a chain: the host's name, and the place of the Router on it."""
    return f"{_NOT_IN_NAMES.sub('-', host)[:100] or 'host'}-{slot}"


class AppendedFile:
    """A file that only grows, by all of some bytes or by none of them."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it.

        Raises:
            OSError: that is not possible.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o640)
        self.size = os.fstat(self._file).st_size
        self._longer = False  # whether there may be bytes after `size`

    def append(self, data: bytes) -> None:
        """Write the bytes to the disk, or leave the file as long as it was.

        Raises:
            OSError: the disk does not take them.
        """
        if self._longer:
            self.cut(self.size)
        try:
            view, at = memoryview(data), self.size
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
            os.fsync(self._file)
        except OSError:
            self._longer = True
            with suppress(OSError):
                self.cut(self.size)
            raise
        self.size = at

    def cut(self, size: int) -> None:
        """Shorten the file."""
        os.ftruncate(self._file, size)
        self.size, self._longer = size, False

    def cut_torn_line(self) -> int:
        """Remove the bytes after the last whole line; returns their number."""
        whole = _end_of_lines(self._file, self.size)
        torn = self.size - whole
        if torn:
            self.cut(whole)
        return torn

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _end_of_lines(file: int, size: int) -> int:
    """The position after the last line end before `size`, 0 if there is none."""
    at = size
    while at:
        start = max(0, at - 65536)
        found = os.pread(file, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new contents at once, so that a reader finds either the old or the new.

    Raises:
        OSError: the disk does not take them.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)
    unfinished.replace(path)


def compress(plain: Path) -> None:
    """Put a compressed file in the place of a closed file, with the same time of change.

    Raises:
        OSError: the disk does not take it; the closed file is still there.
    """
    packed = packed_path(plain)
    unfinished = packed.with_name(packed.name + UNFINISHED)
    with plain.open("rb") as source, unfinished.open("wb") as target:
        with gzip.open(target, "wb", compresslevel=6) as packing:
            shutil.copyfileobj(source, packing, 1024 * 1024)
        target.flush()
        os.fsync(target.fileno())
    stat = plain.stat()
    os.utime(unfinished, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    unfinished.chmod(0o640)
    unfinished.replace(packed)
    plain.unlink()


def sync_directory(directory: Path) -> None:
    """Make the names of new files as durable as their contents."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
