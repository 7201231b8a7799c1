"""The demo's questions in three parts, so that nothing is judged on what it was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from serve_app.core.call import Turn
from serve_app.offline.demo.skills.example import Example
from serve_app.offline.demo.testset import SEED, draw_testset
from serve_app.offline.evaluate.checks import Check, parse_check
from serve_app.offline.learning.groups import group_records


class Part(StrEnum):
    """What a question is for."""

    LEARN = "learn"  # the scorer learns from it
    FIT = "fit"  # the maps over scores and signals are fitted to it
    TEST = "test"  # everything is judged by it


SEEDS: Mapping[Part, Sequence[int]] = {Part.LEARN: (21, 22), Part.FIT: (23, 24), Part.TEST: (SEED,)}
"""Of the demo's generator, 400 questions each; those of the test part are the shipped test set."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `key` is the same in every run."""

    key: str
    part: Part
    turns: tuple[Turn, ...]
    check: Check
    skill: str
    language: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """As the endpoints take them."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]

    @property
    def text(self) -> str:
        """The text of all turns."""
        return "\n".join(turn.text for turn in self.turns)


def draw_questions(share: float = 1.0) -> Sequence[Question]:
    """No question twice, and outside the test part none that nearly repeats one of it."""
    found = list(_draw(share))
    groups = group_records([question.text for question in found], [""] * len(found)).tolist()
    tested = {g for g, q in zip(groups, found, strict=True) if q.part is Part.TEST}
    return [
        question
        for group, question in zip(groups, found, strict=True)
        if question.part is Part.TEST or group not in tested
    ]


def _draw(share: float) -> Iterator[Question]:
    seen = set()
    for part in (Part.TEST, Part.FIT, Part.LEARN):
        for seed in SEEDS[part]:
            for number, example in enumerate(draw_testset(seed, share)):
                if example.messages not in seen:
                    seen.add(example.messages)
                    yield _build(f"{seed}-{number}", part, example)


def _build(key: str, part: Part, example: Example) -> Question:
    turns = tuple(Turn(message.role, message.content) for message in example.messages)
    check = parse_check(example.check.render())
    return Question(key, part, turns, check, example.skill, example.language)
