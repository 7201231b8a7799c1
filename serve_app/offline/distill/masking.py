"""A lesson in tokens: the prompt as the engine renders it, and the answer, which alone is learnt.

The prompt and the answer are tokenized apart, because an engine gets the prompt by itself, so that
no token can span the border between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.offline.distill.training_set import Lesson

Tokenizer = Any
"""A tokenizer of transformers, which has no types here."""

IGNORED = -100
"""The label of a token that is not learnt, as in torch's cross-entropy."""


@dataclass(frozen=True, slots=True)
class EncodedLesson:
    """The tokens of a lesson; those before `answer_start` are the prompt."""

    ids: tuple[int, ...]
    answer_start: int

    @property
    def labels(self) -> list[int]:
        """For each token the token itself where it is learnt, otherwise `IGNORED`."""
        return [IGNORED] * self.answer_start + list(self.ids[self.answer_start :])

    @property
    def answer_tokens(self) -> int:
        """How many tokens are learnt."""
        return len(self.ids) - self.answer_start


def encode_lesson(tokenizer: Tokenizer, lesson: Lesson) -> EncodedLesson:
    """The prompt with the beginning of the answer's turn, then the answer and the turn's end."""
    turns = [{"role": turn.role, "content": turn.content} for turn in lesson.conversation]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(lesson.answer, add_special_tokens=False)
    return EncodedLesson(
        (*prompt_ids, *answer_ids, tokenizer.eos_token_id), answer_start=len(prompt_ids)
    )


def encode_lessons(
    tokenizer: Tokenizer, lessons: Iterable[Lesson], tokens_max: int
) -> tuple[Sequence[EncodedLesson], int]:
    """The lessons of at most so many tokens, and the number of those that are longer."""
    encoded = [encode_lesson(tokenizer, lesson) for lesson in lessons]
    fitting = [lesson for lesson in encoded if len(lesson.ids) <= tokens_max]
    return fitting, len(encoded) - len(fitting)
