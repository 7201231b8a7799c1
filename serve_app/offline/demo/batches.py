"""The training data in batches of about equal size: a function of seed and position alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from serve_app.offline.demo.diet import Diet, draw_conversation
from serve_app.offline.demo.skills.example import Message
from serve_app.offline.demo.tokenizer import END_OF_TEXT, TURN_END, TURN_START

IGNORED = -100
_TOKENS_MAX = 256
CHUNK_CONVERSATIONS = 4096


@dataclass(frozen=True)
class Position:
    """The next batch: batches are cut from chunks, which are drawn independently."""

    chunk: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Batch:
    """`labels` are the tokens that `ids` should be followed by, where the assistant speaks."""

    ids: Tensor
    labels: Tensor
    next: Position


@dataclass(frozen=True)
class Lesson:
    """A conversation in tokens, and which of them are the assistant's."""

    ids: list[int]
    spoken: list[bool]


def encode_conversations(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]
) -> list[Lesson]:
    """As the chat template renders them; an answer ends with the end of its turn."""
    pieces: list[tuple[int, str, bool]] = []
    for index, messages in enumerate(conversations):
        for message in messages:
            spoken = message.role == "assistant"
            pieces += [
                (index, f"{TURN_START}{message.role}\n", False),
                (index, f"{message.content}{TURN_END}", spoken),
                (index, "\n", False),
            ]
    encodings = tokenizer.encode_batch_fast([text for _, text, _ in pieces])
    lessons = [Lesson([], []) for _ in conversations]
    for (index, _, spoken), encoding in zip(pieces, encodings, strict=True):
        lessons[index].ids.extend(encoding.ids)
        lessons[index].spoken.extend([spoken] * len(encoding.ids))
    return lessons


class Batches:
    """Batches of about so many tokens, the lessons of one batch being about equally long."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        diet: Diet,
        seed: str,
        batch_tokens: int,
        chunk_conversations: int = CHUNK_CONVERSATIONS,
    ) -> None:
        self._tokenizer = tokenizer
        self._diet = diet
        self._seed = seed
        self._batch_tokens = batch_tokens
        self._chunk_conversations = chunk_conversations
        self._padding = tokenizer.token_to_id(END_OF_TEXT)

    def iterate(self, start: Position) -> Iterator[Batch]:
        """Without an end, from any position that an earlier batch named as its next."""
        chunk, first = start.chunk, start.batch
        while True:
            groups = self._draw_chunk(chunk)
            for index in range(first, len(groups)):
                last = index + 1 == len(groups)
                following = Position(chunk + 1) if last else Position(chunk, index + 1)
                yield self._render(groups[index], following)
            chunk, first = chunk + 1, 0

    def _draw_chunk(self, chunk: int) -> list[list[Lesson]]:
        rng = Random(f"{self._seed} {chunk}")
        drawn = [draw_conversation(rng, self._diet) for _ in range(self._chunk_conversations)]
        lessons = encode_conversations(self._tokenizer, drawn)
        fitting = [lesson for lesson in lessons if len(lesson.ids) <= _TOKENS_MAX]
        groups = list(self._cut(sorted(fitting, key=lambda lesson: len(lesson.ids))))
        rng.shuffle(groups)
        return groups

    def _cut(self, lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
        """Lessons come from short to long, so that a batch is as wide as its last."""
        group: list[Lesson] = []
        for lesson in lessons:
            if (len(group) + 1) * len(lesson.ids) > self._batch_tokens:
                yield group
                group = []
            group.append(lesson)
        yield group

    def _render(self, lessons: Sequence[Lesson], following: Position) -> Batch:
        width = max(len(lesson.ids) for lesson in lessons) - 1
        ids = torch.full((len(lessons), width), self._padding)
        labels = torch.full((len(lessons), width), IGNORED)
        for row, lesson in enumerate(lessons):
            length = len(lesson.ids) - 1
            ids[row, :length] = torch.tensor(lesson.ids[:-1])
            targets = torch.tensor(lesson.ids[1:])
            labels[row, :length] = targets.where(torch.tensor(lesson.spoken[1:]), IGNORED)
        return Batch(ids, labels, following)
