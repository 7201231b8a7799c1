"""What a generator yields, and the rule that says which split a piece of content belongs to."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Level = Literal["easy", "hard"]
Language = Literal["en", "zh"]
Split = Literal["train", "test"]

LEVELS: tuple[Level, ...] = ("easy", "hard")
LANGUAGES: tuple[Language, ...] = ("en", "zh")

_TEST_SHARE = 8  # one piece of content in so many


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Check:
    """Says which answers are right; `serve_app.offline.evaluate.checks` applies it."""

    type: Literal["exact", "numeric", "regex", "json_schema"]
    value: object

    def render(self) -> dict[str, object]:
        return {"type": self.type, "value": self.value}


@dataclass(frozen=True)
class Example:
    """A conversation up to a question, and its answer."""

    messages: tuple[Message, ...]
    answer: str
    check: Check
    skill: str
    level: Level
    language: Language
    # The answer without the working, where `answer` shows one.
    short_answer: str | None = None
    # The numbers, lists and phrasings in it, each of which belongs to one split.
    phrasing: str = ""
    contents: tuple[str, ...] = field(default=())

    def belongs_to(self, split: Split) -> bool:
        """A training example holds nothing of the test split; a test example asks what is new."""
        phrasing = split_of(self.phrasing)
        splits = [split_of(content) for content in self.contents]
        if split == "train":
            return phrasing == "train" and "test" not in splits
        return phrasing == "test" and ("test" in splits or not splits)


@lru_cache(maxsize=1 << 18)
def split_of(content: str) -> Split:
    """Pure: the same content belongs to the same split on every machine and for every seed."""
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest) % _TEST_SHARE == 0 else "train"


def ask(*turns: str) -> tuple[Message, ...]:
    """User and assistant turns in alternation, the user's first and last."""
    return tuple(
        Message("assistant" if index % 2 else "user", text) for index, text in enumerate(turns)
    )


def draw_until(split: Split, draft: Callable[[], Example]) -> Example:
    """Drafts until one belongs to the split; about one in ten does in the test split."""
    for _ in range(10_000):
        example = draft()
        if example.belongs_to(split):
            return example
    raise ValueError(f"no draft belongs to {split}")


def alternatives(items: Sequence[object]) -> list[str]:
    """The usual ways to write a list."""
    return [separator.join(map(str, items)) for separator in (", ", ",", " ", "、", "-")]
