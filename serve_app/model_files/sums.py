"""SHA256SUMS: the file format of `sha256sum`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from serve_app.model_files.files import read_bytes

SUMS_NAME = "SHA256SUMS"
SUMS_BYTES_MAX = 32 * 1024 * 1024

SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)", re.DOTALL)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


class BadSums(ValueError):
    """A list of sums cannot be used; the message says why."""


def read_sums(path: Path) -> dict[str, str]:
    """The sums of a SHA256SUMS file.

    Raises:
        BadSums: the file cannot be read, or does not have the format of `sha256sum`.
    """
    try:
        return parse_sums(read_bytes(path, SUMS_BYTES_MAX))
    except ValueError as error:
        raise BadSums(str(error)) from None


def parse_sums(data: bytes) -> dict[str, str]:
    """File names and lower-case sums; `*` before a name (binary) means nothing on Linux.

    Raises:
        BadSums: names the first line that is wrong.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(os.fsdecode(data).split("\n"), 1):
        if not (line := line.removesuffix("\r")):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise BadSums(f"line {number}: expected 64 hexadecimal digits, two spaces and a name")
        escaped, digest, name = match.groups()
        try:
            name = check_name(_unescape(name) if escaped else name)
        except ValueError as error:
            raise BadSums(f"line {number}: {error}") from None
        if sums.setdefault(name, digest.lower()) != digest.lower():
            raise BadSums(f"line {number}: a second, different sum of {name!r}")
    if not sums:
        raise BadSums("it holds no sums")
    return sums


def check_name(name: str) -> str:
    """The name in its simplest form.

    Raises:
        ValueError: the name does not lie within the directory.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"{name!r} is not a path within the model directory")
    return str(path)


def check_sums_mapping(sums: Mapping[str, str]) -> dict[str, str]:
    """The same sums, with names and sums in their simplest form.

    Raises:
        ValueError: a name does not lie within the directory, or a sum is not a SHA-256.
    """
    for name, digest in sums.items():
        if not SHA256.fullmatch(digest):
            raise ValueError(f"{name}: a SHA-256 has 64 hexadecimal digits")
    return {check_name(name): digest.lower() for name, digest in sums.items()}


def render_sums(sums: Mapping[str, str]) -> bytes:
    """The file, sorted by name; `sha256sum --check SHA256SUMS` takes it."""
    return b"".join(os.fsencode(_render_line(name, sums[name])) for name in sorted(sums))


def _render_line(name: str, digest: str) -> str:
    escaped = name
    for escape, char in _ESCAPES.items():
        escaped = escaped.replace(char, escape)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def _unescape(name: str) -> str:
    return re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)


def write_sums(directory: Path, sums: Mapping[str, str]) -> Path:
    """Write SHA256SUMS as a whole or not at all."""
    path = directory / SUMS_NAME
    descriptor, scratch = tempfile.mkstemp(prefix=f".{SUMS_NAME}.", dir=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(render_sums(sums))
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
    return path
