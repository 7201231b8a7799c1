"""Finds many literal terms in one text, fast enough for every request.

Searching a text for hundreds of terms one by one, or by one alternation, costs several times as
much as the rest of routing. So each term is filed under a key (a word, a symbol, a character) that
is in every text with the term. The text is searched for a term only if it has the term's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

COUNT_MAX = 6
"""The largest count: no weight looks further, and the bound limits the work."""


class Terms:
    """A set of literal terms, filed by key."""

    def __init__(self, terms: Iterable[str], key: Callable[[str], str]) -> None:
        self._by_key: dict[str, list[str]] = {}
        for term in sorted(set(terms)):
            self._by_key.setdefault(key(term), []).append(term)

    @property
    def keys(self) -> Set[str]:
        """The keys to look for before calling `count`."""
        return self._by_key.keys()

    def count(self, text: str, seen: Set[str]) -> int:
        """Count the distinct terms in `text`, up to COUNT_MAX; `seen` are the keys in the text."""
        found = 0
        for key in self._by_key.keys() & seen:
            for term in self._by_key[key]:
                if term in text:
                    found += 1
                    if found == COUNT_MAX:
                        return found
        return found
