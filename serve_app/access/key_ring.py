"""The keys that a Router knows, kept up to date in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve_app.access.digest import Pepper
from serve_app.access.identity import Identity
from serve_app.access.key_view import describe_key
from serve_app.access.keys import parse_key
from serve_app.access.store import KeySnapshot, KeyStore, KeyStoreUnavailable
from serve_app.access.stored_key import KeyState
from serve_app.config.keys import KeysConfig
from serve_app.core.errors import AccessUnavailable, Unauthorized

FRESH_S = 5.0
"""A store that was read within this time counts as reachable."""
RETRY_S = 2
OTHER_PEPPER = "the pepper is not the one that its keys were made with"

logger = logging.getLogger("ray.serve")
Value = TypeVar("Value")


class KeyRing:
    """Finds the caller of a key in memory, and looks at the store in a thread of its own."""

    def __init__(
        self,
        store: KeyStore,
        pepper: Pepper,
        config: KeysConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Read all keys.

        Raises:
            KeyStoreUnavailable: there is no store, or its keys have another pepper.
        """
        self._store = store
        self._pepper = pepper
        self._config = config
        self._clock = clock
        self._now = now
        self._uses: dict[str, int] = {}
        self._read_at = self._noted_at = clock()
        self._failing = False
        self._snapshot = self._read(None)
        self._watcher: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="serve-app-keys")

    def start(self) -> None:
        """Begin to look at the store."""
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop looking, write the last uses, and free the store."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        try:
            async with asyncio.timeout(FRESH_S):
                await self._note_used()
                await self._in_thread(self._store.close)
        except TimeoutError:
            logger.warning("keys: the store did not take the last uses in time")
        self._thread.shutdown(wait=False, cancel_futures=True)

    def identify(self, text: str) -> Identity:
        """The caller with this key.

        Raises:
            Unauthorized: the key is malformed, unknown, expired or revoked.
            AccessUnavailable: the store cannot be reached, and may say otherwise.
        """
        key = parse_key(text)
        if key is None:
            raise Unauthorized("malformed key")
        age_s = self._clock() - self._read_at
        if age_s > self._stale_max_s:
            raise AccessUnavailable(RETRY_S)
        stored = self._snapshot.keys.get(key.key_id)
        digest, now = self._pepper.digest(text), self._now()
        if stored is None or not stored.matches(digest, now):
            if self._failing or age_s > FRESH_S:
                raise AccessUnavailable(RETRY_S)
            raise Unauthorized("unknown key")
        state = stored.state(now)
        if state is not KeyState.ACTIVE:
            raise Unauthorized(f"{state} key")
        self._uses[key.key_id] = int(now)
        return stored.identity

    async def describe_keys(self) -> Sequence[Mapping[str, object]]:
        """All known keys for an operator, without their hashes, with their last uses.

        Raises:
            AccessUnavailable: the store cannot be reached.
        """
        try:
            used = await self._in_thread(self._store.last_used)
        except KeyStoreUnavailable:
            raise AccessUnavailable(RETRY_S) from None
        latest, now = {**used, **self._uses}, self._now()
        keys = sorted(self._snapshot.keys.values(), key=lambda key: (key.created_at, key.key_id))
        return [describe_key(key, latest.get(key.key_id), now) for key in keys]

    async def poll(self) -> None:
        """Look at the store once."""
        began = self._clock()
        try:
            self._snapshot = await self._in_thread(self._read, self._snapshot)
        except KeyStoreUnavailable as error:
            self._failed(error)
            return
        if self._failing:
            logger.warning("keys: the store can be read again")
        self._read_at, self._failing = began, False
        if began - self._noted_at >= self._config.last_used_s:
            self._noted_at = began
            await self._note_used()

    @property
    def _stale_max_s(self) -> float:
        known = self._config.unreachable == "known"
        return float("inf") if known else max(FRESH_S, self._config.stale_max_s)

    def _read(self, old: KeySnapshot | None) -> KeySnapshot:
        """The present keys; the old ones if they have not changed."""
        read = self._store.read(None if old is None else old.version)
        found = read or old
        if found is None or found.pepper != self._pepper.check:
            raise KeyStoreUnavailable(OTHER_PEPPER)
        return found

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll_s)
            try:
                await self.poll()
            except Exception:
                # Without this task no revocation would ever be seen again.
                logger.exception("keys: a look at the store failed")

    def _failed(self, error: KeyStoreUnavailable) -> None:
        if not self._failing:
            logger.error("keys: %s; known keys stay valid for a time", error)
        self._failing = True

    async def _note_used(self) -> None:
        """Write the uses since the last time; what cannot be written is kept for the next time."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self._in_thread(self._store.note_used, uses)
        except KeyStoreUnavailable as error:
            self._uses = {**uses, **self._uses}
            logger.warning("keys: last uses are not written: %s", error)

    async def _in_thread(self, function: Callable[..., Value], *arguments: object) -> Value:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)
