"""The chain of records: each line ends with the hash of the line before it and of itself.

A line is a JSON object whose last key is `hash`. The hash covers the bytes of the line before that
key, exactly as they are in the file, so no two forms of a line have the same hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

DIGEST_BYTES = 32
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_TAIL_BYTES = len(b',"hash":""}\n') + 2 * DIGEST_BYTES
_SEQ = re.compile(rb'\{"seq":(\d{1,18}),"kind":"([a-z]{1,20})"')
_ORIGIN = b"serve-app audit log, format 1, chain "


class NotALine(ValueError):
    """The bytes are not a line of a chain."""


def origin(chain: str) -> bytes:
    """The hash before the first record of a chain."""
    return hashlib.sha256(_ORIGIN + chain.encode()).digest()


def link(previous: bytes, body: bytes) -> bytes:
    """The hash of a record that follows the record with the hash `previous`."""
    return hashlib.sha256(previous + body).digest()


def render_line(
    previous: bytes, seq: int, kind: str, fields: Mapping[str, Any]
) -> tuple[bytes, bytes]:
    """A line with its hash."""
    body = _dump({"seq": seq, "kind": kind, **fields})
    digest = link(previous, body)
    return b'%s,"hash":"%s"}\n' % (body[:-1], digest.hex().encode()), digest


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """The covered bytes of a line, and the hash that the line states.

    Raises:
        NotALine: the line does not end with a hash.
    """
    tail = _TAIL.fullmatch(line, max(0, len(line) - _TAIL_BYTES))
    if tail is None:
        raise NotALine
    return line[: tail.start()] + b"}", bytes.fromhex(tail[1].decode())


def read_head(line: bytes) -> tuple[int, str]:
    """The number and the kind of a record, from the start of its line.

    Raises:
        NotALine: the line does not begin with them.
    """
    head = _SEQ.match(line)
    if head is None:
        raise NotALine
    return int(head[1]), head[2].decode()


def _dump(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # half of a surrogate pair from a claim of a token, or a very large number
        return json.dumps(_mend(document), separators=(",", ":")).encode()


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _mend(item) for key, item in value.items()}
    return [_mend(item) for item in value] if isinstance(value, list | tuple) else value
