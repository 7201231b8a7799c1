"""Fakes of what routing is handed."""

from __future__ import annotations

from collections.abc import Mapping, Set

from serve_app.core.call import Call, Prompt
from serve_app.core.prefix import NO_KEYS, PrefixKeys
from serve_app.routing.scorer import Rating


class FakeScorer:
    """Gives every prompt the same score and chances, and remembers what it was asked."""

    def __init__(
        self, score: float = 0.0, heads: tuple[str, ...] = (), chances: tuple[float, ...] = ()
    ) -> None:
        self._score = score
        self.heads = heads
        self._chances = chances
        self.seen: list[Prompt] = []

    def score(self, prompt: Prompt) -> float:
        self.seen.append(prompt)
        return self._score

    def rate(self, prompt: Prompt) -> Rating:
        return Rating(self.score(prompt), self._chances)


class FakePayload:
    """A body that nobody reads."""

    def for_model(self, model_id: str, tier: str) -> bytes:
        return b"{}"

    def for_label(self, model_id: str) -> bytes | None:
        return b"{}"

    def prefix_keys(self) -> PrefixKeys:
        return NO_KEYS

    def ranked(self, priority: int, tiers: Set[str]) -> FakePayload:
        return self

    def capped(self, call: Call, tokens_max: int, contexts: Mapping[str, int]) -> FakePayload:
        return self
