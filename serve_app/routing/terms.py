"""Finds many literal terms in one text, fast enough for every request.

Searching a text for hundreds of terms one by one, or by one alternation, costs several times as
much as the rest of routing. So each term is filed under a key (a word, a symbol, a character) that
is in every text with the term. The text is searched for a term only if it has the term's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

COUNT_MAX = 6
"""The largest count: no weight looks further, and the bound limits the work."""


class Terms:
    """Several lists of literal terms in one table, filed by key."""

    def __init__(self, lists: Sequence[Iterable[str]], key: Callable[[str], str]) -> None:
        self._lists = len(lists)
        self._by_key: dict[str, list[tuple[int, str]]] = {}
        for number, terms in enumerate(lists):
            for term in sorted(set(terms)):
                self._by_key.setdefault(key(term), []).append((number, term))

    @property
    def keys(self) -> Set[str]:
        """The keys to look for before calling `count`."""
        return self._by_key.keys()

    def count(self, text: str, seen: Set[str]) -> list[int]:
        """Count the distinct terms of each list in `text`, up to COUNT_MAX; `seen` are the keys in
        the text."""
        found = [0] * self._lists
        for key in self._by_key.keys() & seen:
            for number, term in self._by_key[key]:
                if found[number] < COUNT_MAX and term in text:
                    found[number] += 1
        return found


class Words:
    """Several lists of whole words in one table."""

    def __init__(self, lists: Sequence[Iterable[str]]) -> None:
        self._lists = len(lists)
        self._lists_of: dict[str, list[int]] = {}
        for number, words in enumerate(lists):
            for word in words:
                self._lists_of.setdefault(word, []).append(number)

    def count(self, words: Set[str]) -> list[int]:
        """Count the words of each list among `words`."""
        found = [0] * self._lists
        for word in self._lists_of.keys() & words:
            for number in self._lists_of[word]:
                found[number] += 1
        return found


def rarest_character(lists: Sequence[Iterable[str]]) -> Callable[[str], str]:
    """A key for terms of which each character stands for itself: the character that the fewest
    terms contain, so that a text has few keys that lead to nothing."""
    terms_with: dict[str, int] = {}
    for terms in lists:
        for term in terms:
            for character in set(term):
                terms_with[character] = terms_with.get(character, 0) + 1
    return lambda term: min(term, key=lambda character: (terms_with[character], character))
