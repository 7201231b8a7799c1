"""The texts of a call that the audit log keeps, held by reference while they pass."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.held_body import HeldBody


class Content:
    """The messages of a prompt, by role, and the pieces of the answer's body.

    `prompt` is None where prompts are not kept, or where this one is too long. An answer that is
    longer than its bound is dropped; the bound 0 keeps no answers.
    """

    __slots__ = ("_answer", "answer_chars_max", "prompt", "prompt_too_long")

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
        self._answer = HeldBody(answer_chars_max)

    @property
    def held_bytes(self) -> int:
        """The memory that the texts take, roughly."""
        return self._answer.held_bytes + sum(len(text) for _, text in self.prompt or ())

    def add(self, chunk: bytes) -> None:
        """The next piece of the answer's body."""
        self._answer.add(chunk)

    def body(self) -> bytes | None:
        """The body as far as it came; None where it was too long."""
        return self._answer.body()
