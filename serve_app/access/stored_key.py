"""What a store holds of an API key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from serve_app.access.digest import KeyDigest
from serve_app.access.identity import Identity


class KeyState(StrEnum):
    """Whether a key is valid, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key without its secret; times are whole seconds since 1970.

    After a rotation, `old_digest` is the hash of the previous secret, valid until `old_until`.
    """

    key_id: str
    digest: KeyDigest
    tenant: str
    user: str | None
    roles: tuple[str, ...]
    name: str | None
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    rotated_at: int | None = None
    old_digest: KeyDigest | None = None
    old_until: int | None = None

    def state(self, now: float) -> KeyState:
        """Whether the key is valid."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and now >= self.expires_at:
            return KeyState.EXPIRED
        return KeyState.ACTIVE

    def matches(self, digest: KeyDigest, now: float) -> bool:
        """Whether this is the hash of the key's secret, or of the previous one in its overlap."""
        if self.digest == digest:
            return True
        overlaps = self.old_until is not None and now < self.old_until
        return overlaps and self.old_digest == digest

    def rotated(self, digest: KeyDigest, now: int, overlap_s: int) -> StoredKey:
        """The key with a new secret; the present one stays valid for `overlap_s`."""
        until = now + overlap_s
        return replace(self, digest=digest, rotated_at=now, old_digest=self.digest, old_until=until)

    def revoked(self, now: int) -> StoredKey:
        """The key as it is after its revocation."""
        return self if self.revoked_at is not None else replace(self, revoked_at=now)

    @property
    def identity(self) -> Identity:
        """Who asks with this key."""
        return Identity(self.tenant, self.key_id, self.user, self.roles, self.expires_at)


def render_stored(key: StoredKey) -> bytes:
    """The key as JSON for a store."""
    return orjson.dumps(
        {
            "key_id": key.key_id,
            "digest": key.digest.hex(),
            "tenant": key.tenant,
            "user": key.user,
            "roles": key.roles,
            "name": key.name,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
            "rotated_at": key.rotated_at,
            "old_digest": None if key.old_digest is None else key.old_digest.hex(),
            "old_until": key.old_until,
        }
    )


def parse_stored(data: str | bytes) -> StoredKey:
    """The key of a store's JSON.

    Raises:
        ValueError: the store holds something else.
    """
    try:
        values: dict[str, Any] = orjson.loads(data)
        old = values.pop("old_digest")
        return StoredKey(
            digest=parse_digest(values.pop("digest")),
            old_digest=None if old is None else parse_digest(old),
            roles=tuple(values.pop("roles")),
            **values,
        )
    except (AttributeError, KeyError, TypeError):
        raise ValueError("not a stored key") from None


def parse_digest(text: str) -> KeyDigest:
    """The digest of a store's text; ValueError if it is none."""
    return KeyDigest(bytes.fromhex(text))
