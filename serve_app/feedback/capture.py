"""The answer of a sampled call, held by reference while it passes."""

from __future__ import annotations

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision

BYTES_PER_CHAR = 64
"""A streamed token comes in an event of some 250 bytes, for a character or several."""
BYTES_BESIDE = 16 * 1024


class Capture:
    """A call and the pieces of its answer, up to a bound; a longer answer is dropped."""

    __slots__ = ("_bytes_max", "_chunks", "_size", "call", "decision", "other")

    def __init__(
        self, call: Call, decision: Decision, other: TierConfig, text_chars_max: int
    ) -> None:
        self.call = call
        self.decision = decision
        self.other = other
        self._bytes_max = BYTES_PER_CHAR * text_chars_max + BYTES_BESIDE
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """The next piece of the answer's body."""
        self._size += len(chunk)
        if self._size <= self._bytes_max:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def body(self) -> bytes | None:
        """The whole body; None where it was too long."""
        return b"".join(self._chunks) if self._size <= self._bytes_max else None
