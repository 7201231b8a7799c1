"""Where answers are kept: in the memory of a Router, or in a Redis."""

from __future__ import annotations

from typing import Protocol

from cachetools import TTLCache

from serve_app.cache.entry import StoredAnswer


class AnswerStore(Protocol):
    """Keeps answers by their keys; forgets them after a time, and where it lacks memory."""

    async def get(self, key: bytes) -> StoredAnswer | None:
        """The answer, None where there is none or the store cannot be asked."""
        ...

    def put(self, key: bytes, entry: StoredAnswer) -> None:
        """Keep an answer; must neither block nor raise."""
        ...

    async def close(self) -> None:
        """Free every resource."""
        ...


class MemoryStore:
    """Keeps the answers that were used last, within `bytes_max`, for `ttl_s`.

    A library's LRU: no kept library that bounds bytes has ARC or W-TinyLFU (docs/cache.md).
    """

    def __init__(self, bytes_max: int, ttl_s: float) -> None:
        self._entries: TTLCache[bytes, StoredAnswer] = TTLCache(bytes_max, ttl_s, getsizeof=_size)

    async def get(self, key: bytes) -> StoredAnswer | None:
        """The answer, None where there is none."""
        return self._entries.get(key)

    def put(self, key: bytes, entry: StoredAnswer) -> None:
        """Keep an answer that is not longer than the whole store."""
        if entry.size <= self._entries.maxsize:
            self._entries[key] = entry

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()


def _size(entry: StoredAnswer) -> int:
    return entry.size
