"""What an operator does with keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.access.authentication import open_store, read_pepper
from serve_app.access.digest import Pepper
from serve_app.access.key_ring import OTHER_PEPPER
from serve_app.access.keys import ApiKey, create_key
from serve_app.access.store import KeyStore, KeyStoreUnavailable
from serve_app.access.stored_key import StoredKey
from serve_app.config.keys import KeysConfig


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """For whom a key is made, and until when it is valid."""

    tenant: str
    user: str | None = None
    roles: tuple[str, ...] = ()
    name: str | None = None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class UsedKey:
    """A stored key, and when it was used last."""

    key: StoredKey
    last_used_at: int | None


class KeyAdmin:
    """Makes, finds, rotates and revokes keys. Routers see a change at their next look."""

    def __init__(
        self, store: KeyStore, pepper: Pepper, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._now = now

    def create(self, owner: KeyOwner) -> tuple[ApiKey, StoredKey]:
        """A new key and what is kept of it; makes the store if it does not exist."""
        self._store.create(self._pepper.check)
        self.list()
        key = create_key()
        stored = StoredKey(
            key.key_id,
            self._pepper.digest(key.text),
            owner.tenant,
            owner.user,
            owner.roles,
            owner.name,
            int(self._now()),
            owner.expires_at,
        )
        self._store.add(stored)
        return key, stored

    def list(self) -> Sequence[UsedKey]:
        """All keys, the oldest first.

        Raises:
            KeyStoreUnavailable: the store cannot be used, or its keys have another pepper.
        """
        found = self._store.read()
        if found is None or found.pepper != self._pepper.check:
            raise KeyStoreUnavailable(OTHER_PEPPER)
        used = self._store.last_used()
        keys = sorted(found.keys.values(), key=lambda key: (key.created_at, key.key_id))
        return [UsedKey(key, used.get(key.key_id)) for key in keys]

    def find(self, key_id: str) -> UsedKey | None:
        """The key of an id, None if there is none."""
        return next((used for used in self.list() if used.key.key_id == key_id), None)

    def rotate(self, key_id: str, overlap_s: int) -> tuple[ApiKey, StoredKey] | None:
        """The key with a new secret; None if there is no such key, or it is revoked."""
        found = self.find(key_id)
        if found is None or found.key.revoked_at is not None:
            return None
        new = create_key(key_id)
        digest, now = self._pepper.digest(new.text), int(self._now())
        stored = self._store.change(key_id, lambda key: key.rotated(digest, now, overlap_s))
        return None if stored is None else (new, stored)

    def revoke(self, key_id: str) -> StoredKey | None:
        """The key, from now on without effect; None if there is no such key."""
        now = int(self._now())
        return self._store.change(key_id, lambda key: key.revoked(now))


@contextmanager
def open_key_admin(config: KeysConfig) -> Iterator[KeyAdmin]:
    """What an operator does with the keys of a config.

    Raises:
        ValueError: names the key of the config that cannot be used.
    """
    store, pepper = open_store(config), read_pepper(config)
    try:
        yield KeyAdmin(store, pepper)
    finally:
        store.close()
