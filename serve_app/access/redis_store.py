"""API keys in a Redis that Routers on all nodes share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import redis

from serve_app.access.digest import KeyDigest
from serve_app.access.store import KeySnapshot, KeyStoreUnavailable
from serve_app.access.stored_key import StoredKey, parse_digest, parse_stored, render_stored

CHANGES_MAX = 100
NOTE_USED = """
for i = 1, #ARGV, 2 do
  local old = tonumber(redis.call('HGET', KEYS[1], ARGV[i])) or 0
  if tonumber(ARGV[i + 1]) > old then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
"""


class RedisKeyStore:
    """A KeyStore in three hashes: `<prefix>:meta`, `<prefix>:keys` and `<prefix>:used`."""

    def __init__(
        self, url: str, prefix: str, wait_s: float, password: str | None, ca_file: str | None
    ) -> None:
        options: dict[str, Any] = {
            "socket_timeout": wait_s,
            "socket_connect_timeout": wait_s,
            "retry": None,
            "decode_responses": False,
        }
        if password is not None:
            options["password"] = password
        if ca_file is not None:
            options["ssl_ca_certs"] = ca_file
        self._redis = redis.Redis.from_url(url, **options)
        self._meta, self._keys, self._used = (
            f"{prefix}:{name}" for name in ("meta", "keys", "used")
        )

    def create(self, pepper: KeyDigest) -> None:
        """Make the store if it does not exist."""
        with _explained(), self._redis.pipeline(transaction=True) as change:
            change.hsetnx(self._meta, "pepper", pepper.hex())
            change.hsetnx(self._meta, "version", secrets.token_hex(16))
            change.execute()

    def read(self, known: str | None = None) -> KeySnapshot | None:
        """All keys; None if their version is still the known one."""
        with _explained():
            if known is not None and self._redis.hget(self._meta, "version") == known.encode():
                return None
            with self._redis.pipeline(transaction=True) as look:
                look.hmget(self._meta, "version", "pepper")
                look.hvals(self._keys)
                (version, pepper), records = look.execute()
            if version is None or pepper is None:
                # A Redis that lost its data must not look like one that never had keys.
                raise KeyStoreUnavailable("the Redis holds no keys")
            keys = [parse_stored(record) for record in records]
            return KeySnapshot(
                version.decode(), parse_digest(pepper.decode()), {key.key_id: key for key in keys}
            )

    def add(self, key: StoredKey) -> None:
        """Add a new key."""
        with _explained(), self._redis.pipeline(transaction=True) as change:
            self._set(change, key)
            change.execute()

    def change(self, key_id: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey | None:
        """Change a key, again if another process changed one in between."""
        with _explained(), self._redis.pipeline(transaction=True) as pipe:
            for _ in range(CHANGES_MAX):
                with suppress(redis.WatchError):
                    return self._try_change(pipe, key_id, change)
        raise KeyStoreUnavailable("the Redis has too many changes of keys at once")

    def last_used(self) -> Mapping[str, int]:
        """When each key was used last."""
        with _explained():
            used: Any = self._redis.hgetall(self._used)
            return {key_id.decode(): int(at) for key_id, at in used.items()}

    def note_used(self, uses: Mapping[str, int]) -> None:
        """Write down uses in one script."""
        with _explained():
            flat = [item for use in uses.items() for item in use]
            self._redis.eval(NOTE_USED, 1, self._used, *flat)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _try_change(
        self, pipe: Any, key_id: str, change: Callable[[StoredKey], StoredKey]
    ) -> StoredKey | None:
        """Change a key; WatchError if another process was faster."""
        pipe.watch(self._keys)
        found = pipe.hget(self._keys, key_id)
        if found is None:
            return None
        key = change(parse_stored(found))
        pipe.multi()
        self._set(pipe, key)
        pipe.execute()
        return key

    def _set(self, pipe: Any, key: StoredKey) -> None:
        pipe.hset(self._keys, key.key_id, render_stored(key))
        pipe.hset(self._meta, "version", secrets.token_hex(16))


@contextmanager
def _explained() -> Iterator[None]:
    """Turn Redis' errors into one line without addresses and without remote text."""
    try:
        yield
    except redis.RedisError as error:
        raise KeyStoreUnavailable(f"the Redis cannot be used ({type(error).__name__})") from None
    except (OSError, ValueError) as error:
        raise KeyStoreUnavailable(f"the Redis holds no keys ({type(error).__name__})") from None
