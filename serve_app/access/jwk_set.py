"""The public keys of an issuer (JWKS), checked when they are read and not at each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import cryptography  # noqa: F401  # without it PyJWT has no public keys, and says so at no import
import orjson
from jwt import PyJWK
from jwt.exceptions import PyJWTError

KEYS_MAX = 100
KEY_ID_CHARS_MAX = 256
RSA_BITS = range(2048, 16_385)

_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key for one algorithm; a key of the set that fits several algorithms is here for each."""

    key_id: str | None
    algorithm: str
    key: PyJWK


def parse_jwk_set(body: bytes, algorithms: Set[str]) -> Sequence[PublicKey]:
    """The keys of the set that may sign by one of the algorithms; other keys are left out.

    Raises:
        ValueError: the body is no set of keys, or has none of these.
    """
    document = orjson.loads(body)
    items = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(items, list) or len(items) > KEYS_MAX:
        raise ValueError("not a set of keys")
    keys = [key for item in items if isinstance(item, dict) for key in _keys(item, algorithms)]
    if not keys:
        raise ValueError("no key of the set fits the algorithms")
    return keys


def choose_key(keys: Sequence[PublicKey], key_id: str | None, algorithm: str) -> PublicKey | None:
    """The key that a token names; a token that names none needs a set with one fitting key."""
    fitting = [
        key
        for key in keys
        if key.algorithm == algorithm and (key_id is None or key.key_id == key_id)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _keys(item: Mapping[str, Any], algorithms: Set[str]) -> Iterator[PublicKey]:
    key_id = item.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= KEY_ID_CHARS_MAX):
        return
    for algorithm in sorted(algorithms):
        if _may_sign(item, algorithm):
            try:
                key = PyJWK(dict(item), algorithm)
            except (PyJWTError, ValueError, TypeError, KeyError):
                continue
            if _TYPES[algorithm[:2]] != "RSA" or key.key.key_size in RSA_BITS:
                yield PublicKey(key_id, algorithm, key)


def _may_sign(item: Mapping[str, Any], algorithm: str) -> bool:
    """Whether the key is a public key of the algorithm's type, and meant for signatures by it."""
    return (
        item.get("kty") == _TYPES.get(algorithm[:2])
        and item.get("crv") == _CURVES.get(algorithm)
        and item.get("alg") in (None, algorithm)
        and item.get("use") in (None, "sig")
        and _verifies(item.get("key_ops"))
        and "d" not in item
    )


def _verifies(operations: object) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)
