"""Signatures of the Standard Webhooks specification, as OpenAI's clients check them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64


def parse_secret(text: str) -> bytes:
    """The key of a secret.

    Raises:
        ValueError: says what is wrong, without the secret.
    """
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(PREFIX) or not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"write {PREFIX} and {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes in base64, "
            f'for example from: echo "{PREFIX}$(openssl rand -base64 32)"'
        )
    return key


def sign(keys: Sequence[bytes], event_id: str, timestamp: int, body: str) -> dict[str, str]:
    """The headers of an event; there is a signature for each key."""
    content = f"{event_id}.{timestamp}.{body}".encode()
    signatures = [hmac.new(key, content, hashlib.sha256).digest() for key in keys]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(signature).decode()}" for signature in signatures
        ),
    }
