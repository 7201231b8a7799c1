"""The form of an API key: `sk-serve-<id>-<secret><checksum>`."""

from __future__ import annotations

import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

PREFIX = "sk-serve-"
KEY_PATTERN = r"sk-serve-[0-9A-Za-z]{12}-[0-9A-Za-z]{49}"
"""For secret scanners; the docs publish it."""
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_DIGITS = 12
SECRET_DIGITS = 43
"""43 digits of base 62 are 256 bits."""
CHECKSUM_DIGITS = 6
"""The least number of digits of base 62 that holds 32 bits."""

_KEY = re.compile(KEY_PATTERN)
_ID = re.compile(rf"[0-9A-Za-z]{{{ID_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A well-formed key. Its text is a secret, its id is none."""

    key_id: str
    text: str = field(repr=False)


def create_key(key_id: str | None = None) -> ApiKey:
    """A new key; one of `key_id` replaces the older key of that id."""
    key_id = key_id or _random(ID_DIGITS)
    body = f"{PREFIX}{key_id}-{_random(SECRET_DIGITS)}"
    return ApiKey(key_id, body + render_checksum(body))


def parse_key(text: str) -> ApiKey | None:
    """The key of a text; None for a text of another form and for a key with a typing slip."""
    if _KEY.fullmatch(text) is None:
        return None
    # Not in constant time: the checksum is computed from the client's own text, and is no secret.
    if render_checksum(text[:-CHECKSUM_DIGITS]) != text[-CHECKSUM_DIGITS:]:
        return None
    return ApiKey(text[len(PREFIX) : len(PREFIX) + ID_DIGITS], text)


def is_key_id(text: str) -> bool:
    """Whether the text has the form of a key's id."""
    return _ID.fullmatch(text) is not None


def render_checksum(body: str) -> str:
    """CRC-32 in base 62: it differs after any slip in one digit or in two neighbouring digits."""
    number, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(CHECKSUM_DIGITS):
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def _random(digits: int) -> str:
    return "".join(secrets.choice(DIGITS) for _ in range(digits))
