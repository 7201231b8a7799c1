"""Remembers what was computed from texts that come again, and not the texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Seen(Generic[T]):
    """The results for the texts seen last, at most `entries_max` of them.

    A conversation brings its system prompt and its earlier turns again with each call. The key of
    a result is Python's hash of the texts: 64 bits, with a secret that differs in each process. So
    no text is kept, and no client can make two texts that share a key.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._results: dict[int, T] = {}

    def recall(self, texts: tuple[str, ...], make: Callable[[], T]) -> T:
        """The result for these texts; `make` computes it if it is not remembered."""
        key = hash(texts)
        result = self._results.pop(key, None)
        if result is None:
            result = make()
            if len(self._results) >= self._entries_max:
                del self._results[next(iter(self._results))]
        self._results[key] = result  # behind all others: the first is the one to forget
        return result

    def __len__(self) -> int:
        return len(self._results)
