"""The texts of a call that the audit log keeps, held by reference while they pass."""

from __future__ import annotations

from collections.abc import Sequence

BYTES_PER_CHAR = 64
"""A streamed token comes in an event of some 250 bytes, for a character or several."""
BYTES_BESIDE = 16 * 1024


class Content:
    """The messages of a prompt, by role, and the pieces of the answer's body.

    `prompt` is None where prompts are not kept, or where this one is too long. An answer that is
    longer than its bound is dropped; the bound 0 keeps no answers.
    """

    __slots__ = (
        "_bytes_max", "_chunks", "_size", "answer_chars_max", "prompt", "prompt_too_long",
    )  # fmt: skip

    def __init__(
        self,
        prompt: Sequence[tuple[str, str]] | None,
        answer_chars_max: int,
        *,
        prompt_too_long: bool = False,
    ) -> None:
        self.prompt = prompt
        self.prompt_too_long = prompt_too_long
        self.answer_chars_max = answer_chars_max
        self._bytes_max = BYTES_PER_CHAR * answer_chars_max + BYTES_BESIDE
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def held_bytes(self) -> int:
        """The memory that the texts take, roughly."""
        kept = self._size if self._size <= self._bytes_max else 0
        return kept + sum(len(text) for _, text in self.prompt or ())

    def add(self, chunk: bytes) -> None:
        """The next piece of the answer's body."""
        self._size += len(chunk)
        if self._size <= self._bytes_max:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def body(self) -> bytes | None:
        """The body as far as it came; None where it was too long."""
        return b"".join(self._chunks) if self._size <= self._bytes_max else None
