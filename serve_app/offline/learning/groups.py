"""Find near-duplicates, so that a fit is never judged on a prompt that it has almost seen."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_WORDS = 3
_BANDS, _ROWS = 12, 3
"""Of texts that share four fifths of their phrases 9,998 in 10,000 are found, of a third 36 %."""
_COMMON_MIN = 10
_COMMON_RATIO = 0.01
_TEXT_CHARS_MAX = 8000
_ORDERS = np.random.default_rng(0).integers(
    1, 1 << 62, _BANDS * _ROWS, dtype=np.uint64
) | np.uint64(1)


def group_records(texts: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """A number a text. The same number: near-duplicates, or texts of the same non-empty name.

    Phrases that many texts share (a template's) do not make two of them alike.
    """
    joined = _Joined(len(texts))
    joined.join_equal([name or None for name in names])
    shingles = _drop_common([_shingle(text) for text in texts])
    signatures = [_sign(found) for found in shingles]
    for band in range(_BANDS):
        rows = slice(band * _ROWS, (band + 1) * _ROWS)
        joined.join_equal([None if s is None else tuple(s[rows]) for s in signatures])
    joined.join_equal([_squeeze(text) for text in texts])
    return joined.numbers()


def _shingle(text: str) -> set[int]:
    """Hashes of every three words in a row."""
    words = text[:_TEXT_CHARS_MAX].lower().split()
    if len(words) < _WORDS:  # Chinese, or short: characters then
        words = list("".join(words))
    phrases = zip(*(words[start:] for start in range(_WORDS)), strict=False)
    return {_hash(" ".join(phrase)) for phrase in phrases}


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest)


def _drop_common(shingles: Sequence[set[int]]) -> Iterable[set[int]]:
    counts = Counter(shingle for found in shingles for shingle in found)
    common = max(_COMMON_MIN, _COMMON_RATIO * len(shingles))
    return ({shingle for shingle in found if counts[shingle] <= common} for found in shingles)


def _sign(shingles: set[int]) -> tuple[int, ...] | None:
    """The smallest of the shingles under each of several orders; None where there are none."""
    if not shingles:
        return None
    values = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
    orders = values[:, None] * _ORDERS
    orders ^= orders >> np.uint64(31)
    return tuple(orders.min(axis=0).tolist())


def _squeeze(text: str) -> str:
    """What is left of a text without its case and spaces."""
    return "".join(text.lower().split())


class _Joined:
    """Disjoint sets of numbers."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def join_equal(self, keys: Sequence[Hashable]) -> None:
        """Join numbers with equal keys; None equals no key."""
        members = defaultdict(list)
        for number, key in enumerate(keys):
            if key is not None:
                members[key].append(number)
        for first, *others in members.values():
            for other in others:
                self._parents[self._find(other)] = self._find(first)

    def numbers(self) -> NDArray[np.int64]:
        return np.array([self._find(number) for number in range(len(self._parents))])

    def _find(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number
