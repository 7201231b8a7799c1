"""Looking for many literal terms in one text, fast enough for every request.

Searching a text for hundreds of terms one by one, or by one alternation, costs several times all
the rest of routing. Instead each term is filed under a key that must be in any text that holds the
term (a word, a symbol, a character), and is looked for only where the key has been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

COUNT_MAX = 6
"""Counts stop here: no weight looks further, and it bounds the work."""


class Terms:
    """A set of literal terms, filed by key."""

    def __init__(self, terms: Iterable[str], key: Callable[[str], str]) -> None:
        self._by_key: dict[str, list[str]] = {}
        for term in sorted(set(terms)):
            self._by_key.setdefault(key(term), []).append(term)

    @property
    def keys(self) -> Set[str]:
        """What to look for before calling `count`."""
        return self._by_key.keys()

    def count(self, text: str, seen: Set[str]) -> int:
        """Count the distinct terms in `text`, up to COUNT_MAX; `seen` are the keys it holds."""
        found = 0
        for key in self._by_key.keys() & seen:
            for term in self._by_key[key]:
                if term in text:
                    found += 1
                    if found == COUNT_MAX:
                        return found
        return found
