"""The files of a model directory: lists them, finds forbidden ones, and reads them safely."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from serve_app.model_files.finding import Finding

FILES_MAX = 100_000
JSON_BYTES_MAX = 32 * 1024 * 1024
"""More than the index of a model with a trillion parameters; below a gigabyte as Python objects."""

PICKLED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
PICKLE_MAGIC = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
ZIP_MAGIC = b"PK\x03\x04"
"""The first bytes of `torch.save` files; the archive holds a pickle."""


@dataclass
class Listing:
    """The regular files of a directory, by their paths in it, with their sizes in bytes."""

    files: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def list_files(directory: Path) -> Listing:
    """Every file except in hidden directories (`.cache`, `.git`), which no engine reads."""
    listing = Listing()
    root = directory.resolve()
    for path, name in _walk(root, listing):
        if len(listing.files) >= FILES_MAX:
            listing.findings.append(
                Finding(name, f"more than {FILES_MAX} files", "give the model its own directory")
            )
            break
        size, finding = _look(root, path, name)
        if finding is None:
            listing.files[name] = size
        else:
            listing.findings.append(finding)
    return listing


def _walk(root: Path, listing: Listing) -> Iterator[tuple[Path, str]]:
    """The files below the root; a directory that cannot be entered becomes a finding."""

    def note(error: OSError) -> None:
        where = os.path.relpath(error.filename, root)
        listing.findings.append(_unreadable(where, error))

    for parent, directories, names in os.walk(root, onerror=note):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        links = [name for name in directories if Path(parent, name).is_symlink()]
        for name in [*sorted(names), *links]:
            path = Path(parent, name)
            yield path, path.relative_to(root).as_posix()


def _look(root: Path, path: Path, name: str) -> tuple[int, Finding | None]:
    try:
        status = path.stat()
        target = path.resolve(strict=True)
    except OSError as error:
        return 0, _unreadable(name, error)
    if path.is_symlink() and not _may_link(root, target):
        mend = "replace the link by a copy of the file"
        return 0, Finding(name, f"a link that leaves the directory, to {target}", mend)
    if not stat.S_ISREG(status.st_mode):
        return 0, Finding(name, "not a regular file", "remove it, or put a file in its place")
    return status.st_size, None


def _may_link(root: Path, target: Path) -> bool:
    """Whether a link stays in the directory or in the same Hugging Face cache entry."""
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    return target.is_relative_to(root) or target.is_relative_to(blobs)


def _unreadable(where: str, error: OSError) -> Finding:
    return Finding(where, f"cannot be read: {error.strerror}", "mend the link or the permissions")


def find_pickles(directory: Path, files: dict[str, int]) -> list[Finding]:
    """Files that an engine would unpickle: a pickle can run any code of its maker."""
    mend = "remove it, or make safetensors of it: serve-app convert SOURCE DEST"
    findings = []
    for name in files:
        try:
            what = _pickled(directory / name)
        except OSError as error:
            findings.append(_unreadable(name, error))
            continue
        if what is not None:
            findings.append(Finding(name, f"{what}: loading it can run any code", mend))
    return findings


def _pickled(path: Path) -> str | None:
    if path.suffix.lower() in PICKLED_SUFFIXES:
        return "a pickled file by its name"
    if path.suffix == ".safetensors":
        return None  # The header's length comes first and may look like any magic number.
    with open_regular(path) as file:
        magic = file.read(4)
    if magic.startswith(PICKLE_MAGIC):
        return "a pickle by its first bytes"
    if magic == ZIP_MAGIC:
        return "a zip archive, as torch.save writes it, by its first bytes"
    return None


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, without blocking if it turns out to be a pipe.

    Raises:
        OSError: the file cannot be opened or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: the message says what the file holds instead.
    """
    try:
        value = json.loads(read_bytes(path, JSON_BYTES_MAX))
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Read the whole of a small file.

    Raises:
        ValueError: the file is longer than the bound, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > bytes_max:
        raise ValueError(f"longer than {bytes_max} bytes")
    return data
