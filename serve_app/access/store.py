"""Where API keys are kept, behind one Protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from serve_app.access.digest import KeyDigest
from serve_app.access.stored_key import StoredKey


class KeyStoreUnavailable(Exception):
    """The store cannot be used; the message is one line for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """All keys by their ids, as of a version. `pepper` is the check value of their pepper."""

    version: str
    pepper: KeyDigest
    keys: Mapping[str, StoredKey]


class KeyStore(Protocol):
    """Keeps API keys. Every method blocks, and raises KeyStoreUnavailable if the store cannot be
    used. One thread at a time may use a store; other processes may use the same place."""

    def create(self, pepper: KeyDigest) -> None:
        """Make the store if it does not exist, for keys with the pepper of this check value."""
        ...

    def read(self, known: str | None = None) -> KeySnapshot | None:
        """All keys; None if their version is still the known one."""
        ...

    def add(self, key: StoredKey) -> None:
        """Add a new key."""
        ...

    def change(self, key_id: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey | None:
        """Change a key, without losing a change by another process; None if there is no such key.

        `change` may be called again if another process was faster.
        """
        ...

    def last_used(self) -> Mapping[str, int]:
        """When each key was used last, in whole seconds since 1970; keys never used are absent."""
        ...

    def note_used(self, uses: Mapping[str, int]) -> None:
        """Write down uses; an earlier use never replaces a later one."""
        ...

    def close(self) -> None:
        """Free the resources; the store may be used again."""
        ...
