"""The frames of a replica's state stream, which the replica writes and every Router reads.

HELLO      the protocol, and the epoch: a number of the replica's life
LOAD       what the replica has to do now
SNAPSHOT   every key of the replica's prefix table, at a version
CHANGES    the keys that have changed since the version before

A frame is a head of eight bytes and its content. Numbers are big-endian. A Router trusts no byte:
lengths are bounded, and a stream with a frame that cannot be is given up.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_app.core.prefix import PrefixChange
from serve_app.leases.prefix_cost import ReplicaLoad

PROTOCOL = 1
CHANGES_MAX = 32_768
"""The most keys in a frame; a prefix table holds fewer."""

_HELLO, _LOAD, _SNAPSHOT, _CHANGES = 1, 2, 3, 4
_HEAD = struct.Struct("!BBHI")
"""Kind, a zero, a count of keys or the protocol, and a version."""
_EPOCH = struct.Struct("!Q")
_WORK = struct.Struct("!HHHHIf")
"""Running, queued, trust, KV use, pending tokens and tokens a second."""
_KEY = struct.Struct("!QI")
_RATIO_MAX = 65_534
_UNKNOWN = 65_535
_COUNT_MAX = 0xFFFF
_TOKENS_MAX = 0xFFFFFFFF
_RATE_MIN, _RATE_MAX = 0.1, 1e9


class FramesGarbled(Exception):
    """The bytes are no state stream."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a stream."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of the prefix table: all of them (`whole`), or those that have changed."""

    version: int
    changes: Sequence[PrefixChange]
    whole: bool


Frame = Hello | ReplicaLoad | Keys


def render_hello(epoch: int) -> bytes:
    """The first frame."""
    return _HEAD.pack(_HELLO, 0, PROTOCOL, 0) + _EPOCH.pack(epoch)


def render_load(load: ReplicaLoad) -> bytes:
    """A frame of 24 bytes."""
    kv = _UNKNOWN if load.kv_used_ratio is None else _pack_ratio(load.kv_used_ratio)
    return _HEAD.pack(_LOAD, 0, 0, 0) + _WORK.pack(
        min(load.running, _COUNT_MAX),
        min(load.queued, _COUNT_MAX),
        _pack_ratio(load.trust_ratio),
        kv,
        min(load.pending_tokens, _TOKENS_MAX),
        min(max(load.prefill_tokens_per_s, _RATE_MIN), _RATE_MAX),
    )


def render_keys(version: int, changes: Sequence[PrefixChange], *, whole: bool) -> bytes:
    """A snapshot, or changes; at most `CHANGES_MAX` keys."""
    head = _HEAD.pack(_SNAPSHOT if whole else _CHANGES, 0, len(changes), version)
    return head + b"".join([_KEY.pack(key, tokens) for key, tokens in changes])


def _pack_ratio(ratio: float) -> int:
    return round(min(max(ratio, 0.0), 1.0) * _RATIO_MAX)


class FrameReader:
    """Cuts a stream into frames; holds at most one frame that is not complete."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete.

        Raises:
            FramesGarbled: a frame cannot be.
        """
        self._held += data
        while len(self._held) >= _HEAD.size:
            kind, zero, count, version = _HEAD.unpack_from(self._held)
            end = _HEAD.size + _content_bytes(kind, zero, count)
            if len(self._held) < end:
                return
            content = bytes(memoryview(self._held)[_HEAD.size : end])
            del self._held[:end]
            yield _parse(kind, count, version, content)


def _content_bytes(kind: int, zero: int, count: int) -> int:
    if zero != 0:
        raise FramesGarbled
    if kind == _HELLO:
        return _EPOCH.size
    if kind == _LOAD:
        return _WORK.size
    if kind in (_SNAPSHOT, _CHANGES) and count <= CHANGES_MAX:
        return count * _KEY.size
    raise FramesGarbled


def _parse(kind: int, count: int, version: int, content: bytes) -> Frame:
    if kind == _HELLO:
        if count != PROTOCOL:
            raise FramesGarbled
        return Hello(_EPOCH.unpack(content)[0])
    if kind == _LOAD:
        return _parse_load(content)
    changes = list(map(PrefixChange._make, _KEY.iter_unpack(content)))
    return Keys(version, changes, whole=kind == _SNAPSHOT)


def _parse_load(content: bytes) -> ReplicaLoad:
    running, queued, trust, kv, pending_tokens, rate = _WORK.unpack(content)
    if trust > _RATIO_MAX or not math.isfinite(rate) or rate <= 0:
        raise FramesGarbled
    return ReplicaLoad(
        pending_tokens=pending_tokens,
        prefill_tokens_per_s=min(max(rate, _RATE_MIN), _RATE_MAX),
        running=running,
        queued=queued,
        kv_used_ratio=None if kv == _UNKNOWN else kv / _RATIO_MAX,
        trust_ratio=trust / _RATIO_MAX,
    )
