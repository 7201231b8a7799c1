"""The files of the pages, read once: plain HTML, modules and styles, without a build step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

MEDIA_TYPES: Mapping[str, str] = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

DIGEST_MARK = b"{digest}"
"""Stands in the HTML for the digest of all files, which is a part of their addresses."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a page; `etag` changes with its content."""

    body: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class Assets:
    """All files by name. `digest` changes with each of them, so a browser may keep every file of
    one digest for ever."""

    digest: str
    files: Mapping[str, Asset]


def read_assets() -> Assets:
    """The files of this release."""
    directory = files(__package__).joinpath("static")
    found = {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir(), key=lambda path: path.name)
        if path.name.rpartition(".")[2] in MEDIA_TYPES
    }
    digest = _digest(b"".join(name.encode() + body for name, body in found.items()))
    return Assets(digest, {name: _asset(name, body, digest) for name, body in found.items()})


def _asset(name: str, body: bytes, digest: str) -> Asset:
    extension = name.rpartition(".")[2]
    if extension == "html":
        body = body.replace(DIGEST_MARK, digest.encode())
    return Asset(body, MEDIA_TYPES[extension], f'"{_digest(body)}"')


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()
