"""A kept call on its way to a label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve_app.core.call import Endpoint, Turn

LabelKind = Literal["match", "judge"]


@dataclass(slots=True)
class Sample:
    """The labeller's input; it is not redacted, unless it comes from a Router that has ended.

    `body` asks the tier `other` the same question. `other_answer` is set once that tier has
    answered. `tries` counts how often a label was begun, and `label_tokens` the tokens of the last
    try. `score` is the complexity of the call,
    None where nothing was scored. `file` holds the sample with redacted texts until it has its
    label.
    """

    request_id: str
    endpoint: Endpoint
    turns: tuple[Turn, ...]
    answer: str
    other: str
    other_is_large: bool
    body: bytes
    other_answer: str | None = None
    tries: int = 0
    score: float | None = None
    file: Path | None = None
    label_tokens: int = 0

    def answers(self) -> tuple[str, str]:
        """The weakest tier's answer and the strongest tier's answer; both must be there."""
        assert self.other_answer is not None, "the other tier has answered"
        if self.other_is_large:
            return self.answer, self.other_answer
        return self.other_answer, self.answer


@dataclass(frozen=True, slots=True)
class Label:
    """How right each answer is, 0 to 1, and the source of that judgement."""

    small_score: float
    large_score: float
    kind: LabelKind
    same: bool
