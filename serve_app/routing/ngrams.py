"""Hashes a text's word and character n-grams into buckets, all of them at once in numpy.

A word is a run of letters and digits. Every other sign except a space is a word of its own, and so
is every Chinese character, so Chinese needs no segmenter. The hash function is our own, because
Python's hash differs between processes, and one call per n-gram would take most of a millisecond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 14
CHARS_MAX = 4096
"""A longer text is cut. Callers pass a window of a text, which is much shorter."""

WORD_GRAMS = (1, 2)
CHARACTER_GRAMS = (3, 5)

_SHIFT = 32 - 14
# Odd, so that multiplying by them loses no bits; the values are from xxHash and Knuth.
_BASE = 0x9E3779B1
_PAIR = np.uint32(0x85EBCA77)
_MIX = np.uint32(0xC2B2AE3D)
_HALF = np.uint32(15)

Codes = NDArray[np.uint32]


def _powers(base: int) -> Codes:
    powers, power = np.empty(CHARS_MAX + 1, dtype=np.uint32), 1
    for index in range(len(powers)):
        powers[index] = power
        power = power * base & 0xFFFFFFFF
    return powers


_POWERS = _powers(_BASE)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 32))


def hash_ngrams(text: str, salt: int = 0) -> NDArray[np.uint16]:
    """The bucket of every n-gram in the text, repetitions included, in no defined order.

    Another salt hashes the same text to other buckets, so that the speaker of a word can matter.
    """
    encoded = text[:CHARS_MAX].lower()[:CHARS_MAX].encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, dtype=np.uint32)
    words = _hash_words(codes)
    grams = [words + _offset(salt, 1), _pairs(words) + _offset(salt, 2)]
    previous = codes
    for size in range(2, CHARACTER_GRAMS[-1] + 1):
        previous = previous[:-1] * np.uint32(_BASE) + codes[size - 1 :]
        if size in CHARACTER_GRAMS:
            grams.append(previous + _offset(salt, 100 + size))
    return _scatter(np.concatenate(grams))


def _offset(salt: int, kind: int) -> np.uint32:
    return np.uint32((1000 * salt + kind) * 0x27D4EB2F & 0xFFFFFFFF)


def _hash_words(codes: Codes) -> Codes:
    """One number for each word, by the difference of two prefix sums of a polynomial hash."""
    if not len(codes):
        return codes
    chinese = (codes >= 0x3400) & (codes <= 0x9FFF)
    letters = ((codes - 97 < 26) | (codes - 48 < 10) | (codes >= 0xC0)) & ~chinese
    alone = ~letters & (codes > 32)
    starts, ends = alone.copy(), alone
    starts[0] |= letters[0]
    starts[1:] |= letters[1:] & ~letters[:-1]
    ends[-1] |= letters[-1]
    ends[:-1] |= letters[:-1] & ~letters[1:]
    first, last = np.flatnonzero(starts), np.flatnonzero(ends)
    sums = np.zeros(len(codes) + 1, dtype=np.uint32)
    np.cumsum(codes * _INVERSE_POWERS[: len(codes)], out=sums[1:])
    hashes: Codes = (sums[last + 1] - sums[first]) * _POWERS[first]
    return hashes


def _pairs(words: Codes) -> Codes:
    return words[:-1] * _PAIR + words[1:]


def _scatter(hashes: Codes) -> NDArray[np.uint16]:
    """Spread the hashes over the buckets, in place; close hashes do not stay close."""
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    hashes ^= hashes >> _HALF
    hashes *= _PAIR
    hashes >>= np.uint32(_SHIFT)
    return hashes.astype(np.uint16)
