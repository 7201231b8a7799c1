"""The body of an answer, held by reference while it passes, up to a bound."""

from __future__ import annotations

BYTES_PER_CHAR = 64
"""A streamed token comes in an event of some 250 bytes, for a character or several."""
BYTES_BESIDE = 16 * 1024


class HeldBody:
    """The pieces of a body whose text may have so many characters; a longer body is dropped."""

    __slots__ = ("_bytes_max", "_chunks", "_size")

    def __init__(self, text_chars_max: int) -> None:
        self._bytes_max = BYTES_PER_CHAR * text_chars_max + BYTES_BESIDE
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def held_bytes(self) -> int:
        """The memory that the pieces take, roughly."""
        return self._size if self._size <= self._bytes_max else 0

    def add(self, chunk: bytes) -> None:
        """The next piece of the body."""
        self._size += len(chunk)
        if self._size <= self._bytes_max:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def body(self) -> bytes | None:
        """The body as far as it came; None where it was too long."""
        return b"".join(self._chunks) if self._size <= self._bytes_max else None
