"""The keyed hash of an API key, which is all that is kept of a key."""

from __future__ import annotations

import hashlib
import hmac

PEPPER_BYTES_MIN = 32


class KeyDigest:
    """The keyed hash of a key. Its only comparison takes constant time, and it prints nothing.

    It cannot be hashed, so no dict or set can look it up in another way than by this comparison.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # the way to say so to Python

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyDigest):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def hex(self) -> str:
        """The text for the store."""
        return self._value.hex()


class Pepper:
    """The secret with which keys are hashed.

    HMAC-SHA256 is fast. A slow hash of passwords would protect secrets that can be guessed. The
    secret of a key has 256 random bits, and cannot be guessed at any speed.
    """

    __slots__ = ("_key",)

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(b"serve-app pepper\0" + secret).digest()

    def digest(self, text: str) -> KeyDigest:
        """The keyed hash of a key."""
        return KeyDigest(hmac.digest(self._key, b"key\0" + text.encode(), "sha256"))

    @property
    def check(self) -> KeyDigest:
        """A value by which a store knows its pepper again."""
        return KeyDigest(hmac.digest(self._key, b"check", "sha256"))
