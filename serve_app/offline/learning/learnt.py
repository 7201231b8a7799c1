"""Which calls are kept for judging, and which calls weights have learnt from.

A share of the calls is never learnt from. A hash of the call's question decides, so a call stays on
its side while the log grows, and weights of different days have a share of calls in common that
none of them has seen.

What weights have learnt from is written into their file as a Bloom filter: a call that was learnt
from is always found, and a call that was not is found by mistake once in a hundred times or less.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.core.call import Prompt
from serve_app.offline.learning.records import LabelledCall
from serve_app.routing.features import list_asks
from serve_app.routing.weights import LEARNT_BYTES_MAX

Filter = NDArray[np.uint8]

_SIDE_KEY = b"kept for judging"
_FILTER_KEY = b"learnt from"
_HASHES = 4
_BITS_PER_CALL = 12
_BYTES_MIN = 1 << 9

LEARNT_FROM_NOTHING: Filter = np.zeros(_BYTES_MIN, np.uint8)
LEARNT_FROM_NOTHING.flags.writeable = False


def list_reserved(records: Sequence[LabelledCall], ratio: float) -> NDArray[np.bool_]:
    """The calls that are kept for judging: about `ratio` of them, whatever other calls there are.

    Calls of the same `group` are on one side, and so are questions that differ in nothing but case,
    width, spaces and punctuation.
    """
    names = [f"group {r.group}" if r.group else f"ask {_squeeze(r.prompt)}" for r in records]
    places = [_digest(name, _SIDE_KEY)[0] / 2**64 for name in names]
    reserved: NDArray[np.bool_] = np.array(places, dtype=np.float64) < ratio
    return reserved


def note_learnt(records: Sequence[LabelledCall], before: Filter) -> Filter:
    """The filter of these calls and of those in `before`."""
    size = max(len(before), _size(len(records) + _count(before)))
    bits = np.unpackbits(_stretch(before, size), bitorder="little")
    bits[_positions([r.prompt for r in records], 8 * size)] = 1
    return np.packbits(bits, bitorder="little")


def list_learnt(prompts: Sequence[Prompt], learnt: Filter) -> NDArray[np.bool_]:
    """The prompts whose question is in the filter."""
    bits = np.unpackbits(learnt, bitorder="little")
    found: NDArray[np.bool_] = np.all(bits[_positions(prompts, len(bits))], axis=1)
    return found


def list_unseen(
    records: Sequence[LabelledCall], groups: NDArray[np.int64], *learnt: Filter | None
) -> NDArray[np.bool_]:
    """The calls that are in none of the filters, nor in a group with a call in one of them."""
    seen = np.zeros(len(records), dtype=bool)
    for known in learnt:
        if known is not None:
            seen |= list_learnt([r.prompt for r in records], known)
    unseen: NDArray[np.bool_] = ~np.isin(groups, groups[seen])
    return unseen


def _squeeze(prompt: Prompt) -> str:
    """The newest ask, which a label belongs to: its letters and digits."""
    asks = list_asks(prompt)
    folded = unicodedata.normalize("NFKC", asks[0] if asks else "").casefold()
    return "".join(sign for sign in folded if sign.isalnum())


def _digest(text: str, key: bytes) -> tuple[int, int]:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=key)
    return int.from_bytes(digest.digest()[:8]), int.from_bytes(digest.digest()[8:])


def _positions(prompts: Sequence[Prompt], bits: int) -> NDArray[np.int64]:
    """A row of bit numbers for each prompt. `bits` is a power of two."""
    pairs = [_digest(_squeeze(prompt), _FILTER_KEY) for prompt in prompts]
    rows = [[(first + i * second) % bits for i in range(_HASHES)] for first, second in pairs]
    return np.array(rows, dtype=np.int64).reshape(-1, _HASHES)


def _size(calls: int) -> int:
    """Bytes for so many calls: a power of two, within the bounds."""
    needed = max(1, calls * _BITS_PER_CALL // 8)
    return min(max(_BYTES_MIN, 1 << (needed - 1).bit_length()), LEARNT_BYTES_MAX)


def _stretch(learnt: Filter, size: int) -> Filter:
    """The same calls in a larger filter: positions modulo the smaller size are what they were."""
    return np.tile(learnt, size // len(learnt))


def _count(learnt: Filter) -> int:
    """About how many calls a filter holds, by the share of its bits that are set."""
    bits = 8 * len(learnt)
    empty = max(1, bits - int(np.bitwise_count(learnt).sum()))
    return round(-bits / _HASHES * math.log(empty / bits))
