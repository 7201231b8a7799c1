"""The answer of a sampled call, held by reference while it passes."""

from __future__ import annotations

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision
from serve_app.core.held_body import HeldBody


class Capture:
    """A call and the pieces of its answer, up to a bound; a longer answer is dropped."""

    __slots__ = ("_answer", "call", "consented", "decision", "other")

    def __init__(
        self,
        call: Call,
        decision: Decision,
        other: TierConfig,
        text_chars_max: int,
        *,
        consented: bool = False,
    ) -> None:
        """`consented`: the client itself said that the call may be kept."""
        self.call = call
        self.decision = decision
        self.other = other
        self.consented = consented
        self._answer = HeldBody(text_chars_max)

    def add(self, chunk: bytes) -> None:
        """The next piece of the answer's body."""
        self._answer.add(chunk)

    def body(self) -> bytes | None:
        """The whole body; None where it was too long."""
        return self._answer.body()
