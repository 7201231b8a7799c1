"""A stored answer, and its form in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from serve_app.core.call import Decision, Reason
from serve_app.core.chunks import Take
from serve_app.core.headers import Headers

FORM = 1
"""The version of the form; an entry of another version is not read."""
LENGTH_BYTES = 4
OVERHEAD_BYTES = 512
"""What an entry costs in memory beside its chunks, roughly."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as the engine sent it, in the same chunks."""

    decision: Decision
    content_type: bytes
    chunks: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """The memory that the entry takes, in bytes."""
        return sum(map(len, self.chunks)) + 64 * len(self.chunks) + OVERHEAD_BYTES


class Replay:
    """A stored answer, read like the answer of an engine."""

    status = 200

    def __init__(self, entry: StoredAnswer) -> None:
        self.headers: Headers = [(b"content-type", entry.content_type)]
        self._chunks = iter(entry.chunks)

    async def read(self) -> bytes:
        """The next chunk, then b''."""
        return next(self._chunks, b"")

    def divert(self, take: Take) -> None:
        """No chunk comes from a connection."""


def dump_entry(entry: StoredAnswer) -> bytes:
    """The entry as bytes: the length of its head, its head as JSON, its chunks."""
    decision = entry.decision
    head = orjson.dumps(
        {
            "form": FORM,
            "tier": decision.tier,
            "model": decision.model_id,
            "reason": decision.reason.value,
            "score": decision.score,
            "threshold": decision.threshold,
            "content_type": entry.content_type.decode("latin-1"),
            "lengths": [len(chunk) for chunk in entry.chunks],
        }
    )
    return b"".join([len(head).to_bytes(LENGTH_BYTES, "big"), head, *entry.chunks])


def parse_entry(data: bytes) -> StoredAnswer | None:
    """The entry from its bytes, None if they are not an entry of this version."""
    try:
        start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
        head = orjson.loads(data[LENGTH_BYTES:start])
        if head["form"] != FORM or start + sum(head["lengths"]) != len(data):
            return None
        decision = Decision(
            head["tier"], head["model"], Reason(head["reason"]), head["score"], head["threshold"]
        )
        content_type = head["content_type"].encode("latin-1")
        return StoredAnswer(decision, content_type, _cut(data, start, head["lengths"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _cut(data: bytes, start: int, lengths: Sequence[int]) -> tuple[bytes, ...]:
    chunks = []
    for length in lengths:
        chunks.append(data[start : start + length])
        start += length
    return tuple(chunks)
