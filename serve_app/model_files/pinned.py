"""Weights that a config pins by their SHA-256: a replica checks them before its engine starts."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from serve_app.model_files.files import Listing, list_files
from serve_app.model_files.finding import Finding
from serve_app.model_files.integrity import check_sums
from serve_app.model_files.sums import BadSums, read_sums

FINDINGS_MAX = 5
"""The most findings in a message; `serve-app verify` shows all."""


class ModelFilesRefused(Exception):
    """The files of a model do not match the sums that its config pins."""

    def __init__(self, directory: str, findings: str) -> None:
        super().__init__(directory, findings)  # every argument, so that it survives pickling
        self.directory = directory
        self.findings = findings

    def __str__(self) -> str:
        return (
            f"{self.directory} does not match `sha256sums` of its tier. "
            f"The replica will not start:\n{self.findings}"
        )


def check_pinned(directory: Path, sums: str | Mapping[str, str], node: str, stamps: Path) -> bool:
    """Check a directory, once for each start of a node; returns whether it was hashed.

    `sums` is a mapping, or the path of a SHA256SUMS file, relative to the directory or absolute.
    `node` names a start of a node. `stamps` remembers the checked directories of that start, so the
    next replica does not read 100 GB again. Replicas that start together wait for one another.

    Raises:
        ModelFilesRefused: a file differs, is missing, or is not listed.
    """
    expected = _read(directory, sums)
    with _stamp(directory, stamps) as stamp:
        listing = list_files(directory)
        _refuse(directory, listing.findings)
        mark = _mark(directory, listing, expected, node)
        if stamp.read() == mark:
            return False
        _refuse(directory, check_sums(directory, expected, listing))
        stamp.seek(0)
        stamp.truncate()
        stamp.write(mark)
    return True


def _read(directory: Path, sums: str | Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(sums, str):
        return sums
    try:
        return read_sums(directory / sums)
    except BadSums as error:
        mend = "put it there on every node; serve-app verify DIR --write-sums makes one"
        _refuse(directory, [Finding(sums, str(error), mend)])
        raise


def _refuse(directory: Path, findings: list[Finding]) -> None:
    if findings:
        lines = [str(finding) for finding in findings[:FINDINGS_MAX]]
        if len(findings) > FINDINGS_MAX:
            lines.append(f"and {len(findings) - FINDINGS_MAX} more")
        raise ModelFilesRefused(str(directory), "\n".join(lines))


def _mark(directory: Path, listing: Listing, expected: Mapping[str, str], node: str) -> str:
    """A digest that changes whenever a file does: each write changes the time of change."""
    states = []
    for name in sorted(listing.files):
        status = (directory / name).stat()
        states.append((name, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns))
    state = json.dumps([node, sorted(expected.items()), states])
    return hashlib.sha256(state.encode()).hexdigest()


@contextmanager
def _stamp(directory: Path, stamps: Path) -> Iterator[IO[str]]:
    """The stamp of a directory, locked."""
    stamps.mkdir(mode=0o700, exist_ok=True)
    if stamps.lstat().st_uid != os.geteuid():
        raise PermissionError(f"{stamps} belongs to another user; remove it")
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()
    with (stamps / name).open("a+") as stamp:
        fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        yield stamp


def default_stamps() -> Path:
    """A directory that belongs to this node and this user only."""
    return Path(tempfile.gettempdir()) / f"serve-app-verified-{os.geteuid()}"
