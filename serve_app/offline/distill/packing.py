"""Packs lessons into rows of about equal length, so that hardly any token of a batch is padding.

The lessons of a row do not see each other: each begins at position 0, and attention stays within a
lesson.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from serve_app.offline.distill.masking import IGNORED, EncodedLesson


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of lessons; `lesson` numbers the lesson of each token in its row, 0 is padding.

    `labels` holds for each token the token that should follow it, where it is learnt.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    lesson: Tensor

    @property
    def attention(self) -> Tensor:
        """Whether a token may look at another: not ahead, and only within its lesson."""
        same = self.lesson[:, :, None] == self.lesson[:, None, :]
        width = self.ids.shape[1]
        behind = torch.ones(width, width, dtype=torch.bool).tril()
        return (same & behind)[:, None]

    def to(self, device: str) -> Batch:
        """The batch on another device."""
        tensors = (self.ids, self.labels, self.positions, self.lesson)
        return Batch(*(tensor.to(device) for tensor in tensors))


def pack(
    lessons: Sequence[EncodedLesson], row_tokens: int, rng: Random
) -> list[list[EncodedLesson]]:
    """Rows of at most `row_tokens`, filled in a random order.

    A lesson that is longer than a row has a row of its own.
    """
    rows: list[list[EncodedLesson]] = []
    room = 0
    for lesson in rng.sample(lessons, len(lessons)):
        if len(lesson.ids) > room:
            rows.append([])
            room = row_tokens
        rows[-1].append(lesson)
        room -= len(lesson.ids)
    return rows


def iterate_batches(
    lessons: Sequence[EncodedLesson],
    *,
    row_tokens: int,
    batch_tokens: int,
    padding: int,
    seed: str,
) -> Iterator[Batch]:
    """One pass over the lessons, in an order that depends on the seed alone."""
    rows = pack(lessons, row_tokens, Random(seed))
    count = max(1, batch_tokens // row_tokens)
    for at in range(0, len(rows), count):
        yield build_batch(rows[at : at + count], padding)


def build_batch(rows: Sequence[Sequence[EncodedLesson]], padding: int) -> Batch:
    """The tensors of rows, as wide as the longest row."""
    width = max(sum(len(lesson.ids) for lesson in row) for row in rows)
    batch = Batch(
        ids=torch.full((len(rows), width), padding),
        labels=torch.full((len(rows), width), IGNORED),
        positions=torch.zeros((len(rows), width), dtype=torch.long),
        lesson=torch.zeros((len(rows), width), dtype=torch.long),
    )
    for index, row in enumerate(rows):
        at = 0
        for number, lesson in enumerate(row, start=1):
            end = at + len(lesson.ids)
            batch.ids[index, at:end] = torch.tensor(lesson.ids)
            # The last token of a lesson is followed by nothing.
            batch.labels[index, at : end - 1] = torch.tensor(lesson.labels[1:])
            batch.positions[index, at:end] = torch.arange(end - at)
            batch.lesson[index, at:end] = number
            at = end
    return batch
