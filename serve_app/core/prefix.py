"""Keys of the beginnings of a prompt, from its text and without a tokenizer.

Two prompts that have a key in common have the same text up to that key's offset. The offsets are
absolute: 256 bytes apart up to 4 KiB, and from there each a sixteenth further than the one before,
so that a prompt of 4 MiB has 131 keys, and the part of a prompt that lies behind its last common
key is at most 6 % of what it has in common.

Text agrees with itself in every dialect, while the tokens of a prompt follow from a template that
only the engine applies. What text cannot know (evictions, templates that leave out earlier
thoughts) a replica corrects by the cached tokens that its engine reports.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

PREFIX_KEYS_HEADER = b"x-prefix-keys"
"""From a Router to a replica: the size of the prompt's text and its keys."""

KEY_BYTES = 8
STEP_BYTES = 256
DENSE_BYTES = 4096
LONGEST_BYTES = 4 * 1024 * 1024


def _offsets() -> Iterator[int]:
    offset = STEP_BYTES
    while offset <= LONGEST_BYTES:
        yield offset
        offset += max(STEP_BYTES, offset * STEP_BYTES // DENSE_BYTES)


OFFSETS: tuple[int, ...] = tuple(_offsets())
"""The bytes of text that each key covers."""


@dataclass(frozen=True, slots=True)
class PrefixKeys:
    """The keys of one prompt, shortest beginning first; key `i` covers `OFFSETS[i]` bytes.

    `size_bytes` is the size of the whole text. Keys hold no text, and may go into other threads.
    """

    keys: tuple[int, ...] = ()
    size_bytes: int = 0

    def for_model(self, name: str) -> PrefixKeys:
        """The keys of the same text before a model or an adapter, which share no cache."""
        mask = int.from_bytes(blake2b(name.encode(), digest_size=KEY_BYTES).digest(), "big")
        return PrefixKeys(tuple([key ^ mask for key in self.keys]), self.size_bytes)

    def tokens_at(self, index: int, prompt_tokens: float) -> int:
        """About how many of the prompt's tokens a key covers."""
        return int(prompt_tokens * OFFSETS[index] / self.size_bytes)


NO_KEYS = PrefixKeys()


class PrefixChange(NamedTuple):
    """A key that a replica holds with the tokens that it covers, or no longer holds (0 tokens)."""

    key: int
    tokens: int


def prefix_keys(parts: Iterable[bytes]) -> PrefixKeys:
    """The keys of a prompt: the parts of its canonical text in their order."""
    text = memoryview(b"".join(parts))
    digest = blake2b(digest_size=KEY_BYTES)
    keys: list[int] = []
    begin = 0
    for end in OFFSETS:
        if end > len(text):
            break
        digest.update(text[begin:end])
        keys.append(int.from_bytes(digest.digest(), "big"))
        begin = end
    return PrefixKeys(tuple(keys), len(text))


def render_prefix_keys(keys: PrefixKeys) -> bytes:
    """The value of `PREFIX_KEYS_HEADER`: at most 1.5 KB."""
    packed = struct.pack(f">{len(keys.keys)}Q", *keys.keys)
    return b"%d." % keys.size_bytes + urlsafe_b64encode(packed)


def parse_prefix_keys(value: bytes) -> PrefixKeys | None:
    """The keys in a header, None if the header holds none."""
    size, _, encoded = value.partition(b".")
    try:
        packed = urlsafe_b64decode(encoded)
        keys = struct.unpack(f">{len(packed) // KEY_BYTES}Q", packed)
        found = PrefixKeys(keys, int(size))
    except (ValueError, NotBase64, struct.error):
        return None
    return found if _fits(found) else None


def _fits(keys: PrefixKeys) -> bool:
    """Whether a text of that size has so many keys."""
    count = len(keys.keys)
    if count > len(OFFSETS):
        return False
    return keys.size_bytes >= (OFFSETS[count - 1] if count else 0)
