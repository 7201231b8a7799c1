"""Hashes a text's word and character n-grams into buckets, all of them at once in numpy.

A word is a run of letters and digits. Every other sign except a space is a word of its own, and so
is every Chinese character, so Chinese needs no segmenter. The hash function is our own, because
Python's hash differs between processes, and one call per n-gram would take most of a millisecond.

Most prompts are short, so the number of numpy calls matters more than the length of their arrays.
Hence the tables: one look-up classifies a character, another finds the ends of words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 14
CHARS_MAX = 4096
"""A longer text is cut. Callers pass a window of a text, which is much shorter."""

SALTS = 16
CHARACTER_GRAMS = (3, 5)

_SHIFT = np.uint32(32 - 14)
# Odd, so that multiplying by them loses no bits; the values are from xxHash and Knuth.
_BASE = 0x9E3779B1
_PAIR = np.uint32(0x85EBCA77)
_MIX = np.uint32(0xC2B2AE3D)
_HALF = np.uint32(15)
_FACTOR = np.uint32(_BASE)
_FACTOR_SQUARED = np.uint32(_BASE * _BASE & 0xFFFFFFFF)

Codes = NDArray[np.uint32]

_SPACE, _LETTER, _ALONE = range(3)
_HAN_FIRST, _HAN_LAST = 0x3400, 0x9FFF


def _powers(base: int) -> Codes:
    powers, power = np.empty(CHARS_MAX + 1, dtype=np.uint32), 1
    for index in range(len(powers)):
        powers[index] = power
        power = power * base & 0xFFFFFFFF
    return powers


_POWERS = _powers(_BASE)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 32))


def _classify(code: int) -> int:
    """What a character is to words; upper case never occurs."""
    if _HAN_FIRST <= code <= _HAN_LAST:
        return _ALONE
    if chr(code) in "abcdefghijklmnopqrstuvwxyz0123456789" or code >= 0xC0:
        return _LETTER
    return _ALONE if code > 32 else _SPACE


# From the last Han character on everything is a letter, so the table ends behind it.
_CLASSES = np.array([_classify(code) for code in range(_HAN_LAST + 2)], dtype=np.uint8)
_ASCII_CLASSES = bytes(_CLASSES[:256])


def _is_first(before: int, here: int) -> bool:
    return here == _ALONE or (here == _LETTER and before != _LETTER)


def _is_end(before: int, here: int) -> bool:
    return before == _ALONE or (before == _LETTER and here != _LETTER)


# By the classes of two neighbours, 3 * before + here; as long as `bytes.translate` wants them.
_FIRSTS = bytes(_is_first(*divmod(pair, 3)) for pair in range(9)).ljust(256, b"\0")
_ENDS = bytes(_is_end(*divmod(pair, 3)) for pair in range(9)).ljust(256, b"\0")


def _offset(salt: int, kind: int) -> np.uint32:
    return np.uint32((1000 * salt + kind) * 0x27D4EB2F & 0xFFFFFFFF)


# One offset for each kind of n-gram: words, pairs of words, three and five characters.
_KINDS = (1, 2, *(100 + size for size in CHARACTER_GRAMS))
_OFFSETS = [[_offset(salt, kind) for kind in _KINDS] for salt in range(SALTS)]


def hash_ngrams(text: str, salt: int = 0) -> NDArray[np.uint16]:
    """The bucket of every n-gram in the text, repetitions included, in no defined order.

    Another salt, below SALTS, hashes the same text to other buckets, so that the speaker of a word
    can matter.
    """
    low = text[:CHARS_MAX].lower()[:CHARS_MAX]
    codes = np.frombuffer(low.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    words = _hash_words(low, codes)
    ends = _lay_out(len(words), len(codes))
    grams = np.empty(ends[3], dtype=np.uint32)
    word, pair, three, five = _OFFSETS[salt]
    np.add(words, word, out=grams[: ends[0]])
    _add_pairs(words, pair, grams[ends[0] : ends[1]])
    _add_runs(codes, three, grams[ends[1] : ends[2]], five, grams[ends[2] :])
    return _scatter(grams)


def _lay_out(words: int, chars: int) -> tuple[int, int, int, int]:
    """Where the n-grams of each kind end in the array of all of them."""
    pairs = words + max(words - 1, 0)
    threes = pairs + max(chars - 2, 0)
    return words, pairs, threes, threes + max(chars - 4, 0)


def _hash_words(low: str, codes: Codes) -> Codes:
    """One number for each word, by the difference of two prefix sums of a polynomial hash."""
    pairs = _pair_classes(low, codes)
    firsts = np.frombuffer(pairs.translate(_FIRSTS), dtype=np.bool_)[:-1].nonzero()[0]
    ends = np.frombuffer(pairs.translate(_ENDS), dtype=np.bool_).nonzero()[0]
    sums = np.empty(len(codes) + 1, dtype=np.uint32)
    sums[0] = 0
    (codes * _INVERSE_POWERS[: len(codes)]).cumsum(out=sums[1:])
    words: Codes = sums[ends]
    words -= sums[firsts]
    words *= _POWERS[firsts]
    return words


def _pair_classes(low: str, codes: Codes) -> bytes:
    """The classes of every two neighbours, with a space before the first and behind the last."""
    if low.isascii():
        classes = low.encode().translate(_ASCII_CLASSES)
    else:
        classes = _CLASSES.take(codes, mode="clip").tobytes()
    padded = np.frombuffer(b"\0%b\0" % classes, dtype=np.uint8)
    pairs = padded[:-1] * np.uint8(3)
    pairs += padded[1:]
    return pairs.tobytes()


def _add_pairs(words: Codes, offset: np.uint32, out: Codes) -> None:
    if len(words) > 1:
        np.multiply(words[:-1], _PAIR, out=out)
        out += words[1:]
        out += offset


def _add_runs(codes: Codes, three: np.uint32, threes: Codes, five: np.uint32, fives: Codes) -> None:
    """The polynomial hashes of three characters and of five, both from those of two."""
    if len(codes) < CHARACTER_GRAMS[0]:
        return
    twos = codes[:-1] * _FACTOR
    twos += codes[1:]
    runs = twos[:-1] * _FACTOR
    runs += codes[2:]
    np.add(runs, three, out=threes)
    if len(fives):
        np.multiply(runs[:-2], _FACTOR_SQUARED, out=fives)
        fives += twos[3:]
        fives += five


def _scatter(hashes: Codes) -> NDArray[np.uint16]:
    """Spread the hashes over the buckets, in place; close hashes do not stay close."""
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    hashes ^= hashes >> _HALF
    hashes *= _PAIR
    hashes >>= _SHIFT
    return hashes.astype(np.uint16)
