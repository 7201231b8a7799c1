"""What a Router knows of keys: in memory, up to date, and by policy while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.access.digest import KeyDigest, Pepper
from serve_app.access.identity import Identity
from serve_app.access.key_ring import KeyRing
from serve_app.access.keys import ApiKey, create_key
from serve_app.access.redis_store import RedisKeyStore
from serve_app.access.sqlite_store import SqliteKeyStore
from serve_app.access.store import KeySnapshot, KeyStore, KeyStoreUnavailable
from serve_app.access.stored_key import StoredKey
from serve_app.config.keys import KeysConfig
from serve_app.core.errors import AccessUnavailable, Unauthorized
from tests.redis_server import run_redis

PEPPER = Pepper(b"p" * 32)
NOW = 1_000_000


class FakeKeyStore:
    """A store in memory that can be switched off."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.pepper: KeyDigest = PEPPER.check
        self.uses: dict[str, int] = {}
        self.version = 0
        self.down = False
        self.reads = 0
        self.closed = False

    def create(self, pepper: KeyDigest) -> None:
        self.pepper = pepper

    def read(self, known: str | None = None) -> KeySnapshot | None:
        self._check()
        self.reads += 1
        if known == str(self.version):
            return None
        return KeySnapshot(str(self.version), self.pepper, dict(self.keys))

    def add(self, key: StoredKey) -> None:
        self.keys[key.key_id] = key
        self.version += 1

    def change(self, key_id: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey | None:
        self.add(change(self.keys[key_id]))
        return self.keys[key_id]

    def last_used(self) -> Mapping[str, int]:
        self._check()
        return self.uses

    def note_used(self, uses: Mapping[str, int]) -> None:
        self._check()
        self.uses.update(uses)

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.down:
            raise KeyStoreUnavailable("off")


class FakeTime:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def clock(self) -> float:
        return 50 + self.passed_s

    def now(self) -> float:
        return NOW + self.passed_s


def config(**values: object) -> KeysConfig:
    return KeysConfig.model_validate({"file": "/keys", "pepper": {"file": "/pepper"}, **values})


def add(store: KeyStore, **values: object) -> ApiKey:
    """Put a new key into the store."""
    key = create_key()
    digest = PEPPER.digest(key.text)
    made = StoredKey(key.key_id, digest, "acme", "ann", ("dev",), "ci", NOW)
    store.add(replace(made, **values))  # type: ignore[arg-type]  # the tests' own values
    return key


@pytest.fixture
def store() -> FakeKeyStore:
    return FakeKeyStore()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@asynccontextmanager
async def opened(store: KeyStore, time: FakeTime, **values: object) -> AsyncIterator[KeyRing]:
    """A ring that looks at its store only when the test says so."""
    ring = KeyRing(store, PEPPER, config(**values), clock=time.clock, now=time.now)
    yield ring
    await ring.close()


async def test_a_known_key_says_who_asks(store: FakeKeyStore, time: FakeTime) -> None:
    """The caller comes from memory, without a look into the store."""
    key = add(store, expires_at=NOW + 10)
    async with opened(store, time) as ring:
        store.down = True
        expected = Identity("acme", key.key_id, "ann", ("dev",), NOW + 10)
        assert ring.identify(key.text) == expected
        store.down = False


async def test_what_is_not_a_valid_key_is_refused(store: FakeKeyStore, time: FakeTime) -> None:
    """Unknown, expired, revoked and malformed keys, and a key with another secret."""
    expired, revoked = add(store, expires_at=NOW + 5), add(store, revoked_at=NOW)
    good = add(store)
    async with opened(store, time) as ring:
        assert ring.identify(expired.text)
        time.passed_s = 5.0
        for text, why in [
            (expired.text, "expired key"),
            (revoked.text, "revoked key"),
            (create_key().text, "unknown key"),
            (create_key(good.key_id).text, "unknown key"),
            (good.text[:-1], "malformed key"),
            ("", "malformed key"),
        ]:
            with pytest.raises(Unauthorized) as error:
                ring.identify(text)
            assert error.value.why == why


async def test_a_rotated_key_has_two_secrets_for_a_time(
    store: FakeKeyStore, time: FakeTime
) -> None:
    """The overlap lets clients change; a revocation ends both."""
    old = add(store)
    new = create_key(old.key_id)
    store.change(old.key_id, lambda key: key.rotated(PEPPER.digest(new.text), NOW, 60))
    async with opened(store, time) as ring:
        assert ring.identify(old.text) == ring.identify(new.text)
        time.passed_s = 60.0
        await ring.poll()
        assert ring.identify(new.text)
        with pytest.raises(Unauthorized):
            ring.identify(old.text)
        store.change(old.key_id, lambda key: key.revoked(NOW))
        await ring.poll()
        with pytest.raises(Unauthorized):
            ring.identify(new.text)


async def test_new_and_revoked_keys_are_seen(store: FakeKeyStore, time: FakeTime) -> None:
    """After the next look at the store."""
    key = add(store)
    async with opened(store, time) as ring:
        later = add(store)
        store.change(key.key_id, lambda key: key.revoked(NOW))
        assert ring.identify(key.text)
        await ring.poll()
        assert ring.identify(later.text)
        with pytest.raises(Unauthorized):
            ring.identify(key.text)


@pytest.mark.parametrize(("policy", "stays"), [("closed", False), ("known", True)])
async def test_a_store_that_is_away_fails_by_policy(
    store: FakeKeyStore, time: FakeTime, policy: str, stays: bool
) -> None:
    """Known keys are valid for a time, other keys get a 503, and revoked keys stay revoked."""
    known, revoked, unknown = add(store), add(store, revoked_at=NOW), create_key()
    async with opened(store, time, unreachable=policy, stale_max_s=60) as ring:
        store.down = True
        await ring.poll()
        time.passed_s = 60.0
        assert ring.identify(known.text)
        with pytest.raises(AccessUnavailable):
            ring.identify(unknown.text)
        with pytest.raises(AccessUnavailable):
            ring.identify(create_key(known.key_id).text)
        with pytest.raises(Unauthorized):
            ring.identify(revoked.text)
        time.passed_s = 60.1
        if stays:
            assert ring.identify(known.text)
        else:
            with pytest.raises(AccessUnavailable):
                ring.identify(known.text)
        store.down = False
        await ring.poll()
        assert ring.identify(known.text)
        with pytest.raises(Unauthorized):
            ring.identify(unknown.text)


async def test_a_store_that_hangs_counts_as_away(store: FakeKeyStore, time: FakeTime) -> None:
    """No look has failed, but the last good one is more than 5 s ago."""
    known, unknown = add(store), create_key()
    async with opened(store, time, stale_max_s=0) as ring:
        time.passed_s = 5.0
        assert ring.identify(known.text)
        with pytest.raises(Unauthorized):
            ring.identify(unknown.text)
        time.passed_s = 5.1
        for key in (known, unknown):
            with pytest.raises(AccessUnavailable) as error:
                ring.identify(key.text)
            assert error.value.retry_after_s == 2


async def test_keys_are_described_without_their_hashes(store: FakeKeyStore, time: FakeTime) -> None:
    """With the latest use, whether it is written down or not; a store that is away is a 503."""
    written, new = add(store), add(store, revoked_at=NOW)
    used = add(store)
    store.uses = {written.key_id: NOW - 1}
    async with opened(store, time) as ring:
        ring.identify(used.text)
        rows = {row["key_id"]: row for row in await ring.describe_keys()}
        assert {key_id: row["last_used_at"] for key_id, row in rows.items()} == {
            written.key_id: "1970-01-12T13:46:39Z",
            new.key_id: None,
            used.key_id: "1970-01-12T13:46:40Z",
        }
        assert rows[new.key_id]["state"] == "revoked"
        assert all(PEPPER.digest(key.text).hex() not in str(rows) for key in (written, new, used))
        store.down = True
        with pytest.raises(AccessUnavailable):
            await ring.describe_keys()
        store.down = False


async def test_another_pepper_is_named(store: FakeKeyStore, time: FakeTime) -> None:
    """Otherwise every key would be refused, and nobody would know why."""
    store.pepper = Pepper(b"q" * 32).check
    with pytest.raises(KeyStoreUnavailable, match="pepper"):
        KeyRing(store, PEPPER, config(), clock=time.clock, now=time.now)


async def test_last_uses_are_written_in_batches(store: FakeKeyStore, time: FakeTime) -> None:
    """Not before their time, and again if the store could not take them; the rest at the end."""
    key, other = add(store), add(store)
    async with opened(store, time, last_used_s=60) as ring:
        ring.identify(key.text)
        time.passed_s = 59.0
        await ring.poll()
        assert store.uses == {}
        time.passed_s = 60.0
        await ring.poll()
        assert store.uses == {key.key_id: NOW}
        ring.identify(other.text)
    assert store.uses == {key.key_id: NOW, other.key_id: NOW + 60}
    assert store.closed


async def test_uses_that_cannot_be_written_are_kept(time: FakeTime) -> None:
    """A store that can be read but not written loses nothing but time."""

    class ReadOnly(FakeKeyStore):
        writable = False

        def note_used(self, uses: Mapping[str, int]) -> None:
            if not self.writable:
                raise KeyStoreUnavailable("read only")
            super().note_used(uses)

    store = ReadOnly()
    key = add(store)
    async with opened(store, time, last_used_s=1) as ring:
        ring.identify(key.text)
        time.passed_s = 1.0
        await ring.poll()
        assert store.uses == {}
        store.writable = True
        time.passed_s = 2.0
        await ring.poll()
        assert store.uses == {key.key_id: NOW}


async def test_a_fault_does_not_end_the_looks(store: FakeKeyStore, time: FakeTime) -> None:
    """Otherwise no revocation would be seen any more."""

    class Faulty(FakeKeyStore):
        def read(self, known: str | None = None) -> KeySnapshot | None:
            found = super().read(known)
            if self.reads == 2:
                raise RuntimeError("a fault")
            return found

    faulty = Faulty()
    async with opened(faulty, time, poll_s=0.01) as ring:
        ring.start()
        key = add(faulty)
        async with asyncio.timeout(20):
            while not takes(ring, key.text):
                await asyncio.sleep(0.01)
        assert faulty.reads > 2


@pytest.fixture(params=["sqlite", "redis"])
def real_stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[KeyStore]]:
    """The store of an operator's command, and the stores of two Routers."""
    if request.param == "sqlite":
        yield [SqliteKeyStore(tmp_path / "keys.sqlite", 2) for _ in range(3)]
        return
    with run_redis(tmp_path, "--save", "") as url:
        stores = [RedisKeyStore(url, "keys", 2, None, None) for _ in range(3)]
        yield list(stores)
        for store in stores:
            store.close()


async def test_every_router_refuses_a_revoked_key_within_5_s(real_stores: list[KeyStore]) -> None:
    """By a real store and the real clock, with the defaults of the config."""
    command, *routers = real_stores
    command.create(PEPPER.check)
    key = add(command)
    rings = [KeyRing(store, PEPPER, config()) for store in routers]
    for ring in rings:
        ring.start()
        ring.start()
        assert ring.identify(key.text)
    command.change(key.key_id, lambda key: key.revoked(NOW))
    async with asyncio.timeout(5):
        for ring in rings:
            while takes(ring, key.text):
                await asyncio.sleep(0.02)
    for ring in rings:
        await ring.close()


def takes(ring: KeyRing, text: str) -> bool:
    """Whether the ring takes the key."""
    try:
        return ring.identify(text) is not None
    except Unauthorized:
        return False


async def test_a_redis_that_dies_and_comes_back(tmp_path: Path) -> None:
    """Known keys stay valid meanwhile; a Redis without its data is not one without keys."""
    time = FakeTime()
    with run_redis(tmp_path, "--save", "") as url:
        store = RedisKeyStore(url, "keys", 2, None, None)
        store.create(PEPPER.check)
        key, unknown = add(store), create_key()
        ring = KeyRing(store, PEPPER, config(), clock=time.clock, now=time.now)
        await ring.poll()
    port = int(url.rpartition(":")[2].partition("/")[0])
    await ring.poll()
    assert ring.identify(key.text)
    with run_redis(tmp_path, "--save", "", port=port):
        await ring.poll()
        assert ring.identify(key.text)
        with pytest.raises(AccessUnavailable):
            ring.identify(unknown.text)
        command = RedisKeyStore(url, "keys", 2, None, None)
        command.create(PEPPER.check)
        await ring.poll()
        with pytest.raises(Unauthorized):
            ring.identify(key.text)
        command.close()
        await ring.close()
