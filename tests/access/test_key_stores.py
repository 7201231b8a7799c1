"""Both stores of API keys, on a real file and a real Redis."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from serve_app.access.digest import Pepper
from serve_app.access.keys import create_key
from serve_app.access.redis_store import RedisKeyStore
from serve_app.access.sqlite_store import SqliteKeyStore
from serve_app.access.store import KeyStore, KeyStoreUnavailable
from serve_app.access.stored_key import StoredKey, parse_stored, render_stored
from tests.redis_server import free_port, run_redis

LOOPBACK = IPv4Address("127.0.0.1")
PEPPER = Pepper(b"p" * 32)


def stored(name: str = "ci", **values: object) -> StoredKey:
    key = create_key()
    made = StoredKey(key.key_id, PEPPER.digest(key.text), "acme", "ann", ("dev", "ops"), name, 1000)
    return replace(made, **values)  # type: ignore[arg-type]  # the tests' own values


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Redis for this file; each test has a prefix of its own."""
    with run_redis(tmp_path_factory.mktemp("redis"), "--save", "") as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[KeyStore]]:
    """Two views of one store, as two processes have them."""
    made: list[KeyStore]
    if request.param == "sqlite":
        made = [SqliteKeyStore(tmp_path / "a" / "keys.sqlite", 5) for _ in range(2)]
    else:
        url = request.getfixturevalue("redis_url")
        made = [RedisKeyStore(url, tmp_path.name, 5, None, None) for _ in range(2)]
    yield made
    for store in made:
        store.close()


def test_a_key_is_seen_by_the_other_process(stores: list[KeyStore]) -> None:
    """All of it comes back, and the version says that there is something new."""
    one, other = stores
    one.create(PEPPER.check)
    empty = other.read()
    assert empty is not None
    assert (dict(empty.keys), empty.pepper == PEPPER.check) == ({}, True)
    key = stored(expires_at=5000)
    one.add(key)
    found = other.read(empty.version)
    assert found is not None
    assert dict(found.keys) == {key.key_id: key}
    assert other.read(found.version) is None


def test_a_change_is_seen_and_an_unknown_key_is_none(stores: list[KeyStore]) -> None:
    """A revocation changes the version."""
    one, other = stores
    one.create(PEPPER.check)
    key = stored()
    one.add(key)
    before = other.read()
    assert before is not None
    changed = one.change(key.key_id, lambda key: key.revoked(2000))
    assert changed is not None
    after = other.read(before.version)
    assert after is not None
    assert after.keys[key.key_id] == changed == replace(key, revoked_at=2000)
    assert one.change("nosuchkey123", lambda key: key) is None


def test_no_change_is_lost_between_processes(stores: list[KeyStore]) -> None:
    """Two processes that change one key at a time each see the other's change."""
    stores[0].create(PEPPER.check)
    key = stored(name="")
    stores[0].add(key)

    def write(store: KeyStore, letter: str) -> None:
        for _ in range(25):
            store.change(key.key_id, lambda key: replace(key, name=f"{key.name}{letter}"))

    threads = [threading.Thread(target=write, args=pair) for pair in zip(stores, "ab", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stores[0].read()
    assert found is not None
    assert sorted(found.keys[key.key_id].name or "") == ["a"] * 25 + ["b"] * 25


def test_the_latest_use_stays(stores: list[KeyStore]) -> None:
    """Routers write in any order; a use changes no version."""
    one, other = stores
    one.create(PEPPER.check)
    before = one.read()
    assert before is not None
    one.note_used({"a": 200, "b": 100})
    other.note_used({"a": 150, "b": 300, "c": 1})
    assert dict(one.last_used()) == {"a": 200, "b": 300, "c": 1}
    assert other.read(before.version) is None


def test_a_second_create_changes_nothing(stores: list[KeyStore]) -> None:
    """The keys stay, and so does their pepper."""
    one, other = stores
    one.create(PEPPER.check)
    key = stored()
    one.add(key)
    other.create(Pepper(b"q" * 32).check)
    found = other.read()
    assert found is not None
    assert found.pepper == PEPPER.check
    assert list(found.keys) == [key.key_id]


def test_what_was_never_made_is_unavailable(stores: list[KeyStore]) -> None:
    """A wrong path or a Redis that lost its data must not look like a store without keys."""
    with pytest.raises(KeyStoreUnavailable):
        stores[0].read()


def test_only_the_service_can_read_the_file(tmp_path: Path) -> None:
    """The file has 0600 whatever the umask, and the directory that is made for it 0700."""
    path = tmp_path / "a" / "keys.sqlite"
    old = os.umask(0)
    try:
        SqliteKeyStore(path, 1).create(PEPPER.check)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_holds_no_key(tmp_path: Path) -> None:
    """Only the keyed hash; not even a part of the secret."""
    path, key = tmp_path / "keys.sqlite", create_key()
    store = SqliteKeyStore(path, 1)
    store.create(PEPPER.check)
    store.add(replace(stored(), key_id=key.key_id, digest=PEPPER.digest(key.text)))
    secret = key.text.rpartition("-")[2]
    assert not any(secret[at : at + 8].encode() in path.read_bytes() for at in range(41))


def test_a_file_that_every_user_may_write_is_refused(tmp_path: Path) -> None:
    """Any user of the machine could give a key other roles."""
    path = tmp_path / "keys.sqlite"
    store = SqliteKeyStore(path, 1)
    store.create(PEPPER.check)
    path.chmod(0o666)
    with pytest.raises(KeyStoreUnavailable, match="chmod 600"):
        store.read()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"", None])
def test_a_file_of_another_kind_is_unavailable(tmp_path: Path, content: bytes | None) -> None:
    """Text, an empty file and a directory are one clear line."""
    path = tmp_path / "keys.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(KeyStoreUnavailable, match=str(path)) as error:
        SqliteKeyStore(path, 1).read()
    assert len(str(error.value).splitlines()) == 1


def test_a_file_with_a_broken_record_is_unavailable(tmp_path: Path) -> None:
    """A key that cannot be read must not silently become no key."""
    path = tmp_path / "keys.sqlite"
    store = SqliteKeyStore(path, 1)
    store.create(PEPPER.check)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO keys VALUES ('a', '{}')")
    database.close()
    with pytest.raises(KeyStoreUnavailable, match="not a file of keys"):
        store.read()


def test_a_create_that_was_stopped_is_done_again(tmp_path: Path) -> None:
    """The first maker left an empty file."""
    path = tmp_path / "keys.sqlite"
    path.touch(0o644)
    store = SqliteKeyStore(path, 1)
    store.create(PEPPER.check)
    assert store.read() is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_lock_that_does_not_end_is_unavailable(tmp_path: Path) -> None:
    """A process that hangs within a change."""
    path = tmp_path / "keys.sqlite"
    store = SqliteKeyStore(path, 0.05)
    store.create(PEPPER.check)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KeyStoreUnavailable, match="locked"):
        store.add(stored())
    database.close()
    store.add(stored())


def test_a_redis_that_is_not_there_is_unavailable() -> None:
    """The message names no address and no remote text."""
    store = RedisKeyStore(f"redis://127.0.0.1:{free_port()}/0", "keys", 1, None, None)
    with pytest.raises(
        KeyStoreUnavailable, match=r"^the Redis cannot be used \(ConnectionError\)$"
    ):
        store.read()


def test_a_redis_asks_for_its_password(tmp_path: Path) -> None:
    """Without it, nothing is read."""
    with run_redis(tmp_path, "--save", "") as url:
        with redis.Redis.from_url(url) as admin:
            admin.config_set("requirepass", "s3cret")
        good = RedisKeyStore(url, "keys", 1, "s3cret", None)
        good.create(PEPPER.check)
        assert good.read() is not None
        bad = RedisKeyStore(url, "keys", 1, "other", None)
        with pytest.raises(KeyStoreUnavailable, match="AuthenticationError"):
            bad.read()
        good.close()
        bad.close()


def test_a_redis_proves_itself_by_its_certificate(tmp_path: Path) -> None:
    """`rediss` with the authority of `ca_file`; another authority is not trusted."""
    port = free_port()
    write_certificate(tmp_path, "redis")
    write_certificate(tmp_path, "other")
    files = ("--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key")
    tls = ("--tls-port", str(port), *files, "--tls-auth-clients", "no")
    with run_redis(tmp_path, "--save", "", *tls):
        url = f"rediss://127.0.0.1:{port}/0"
        good = RedisKeyStore(url, "keys", 5, None, str(tmp_path / "redis.pem"))
        good.create(PEPPER.check)
        assert good.read() is not None
        good.close()
        for ca_file in (str(tmp_path / "other.pem"), None):
            bad = RedisKeyStore(url, "keys", 5, None, ca_file)
            with pytest.raises(KeyStoreUnavailable, match="ConnectionError"):
                bad.read()
            bad.close()


def write_certificate(directory: Path, name: str) -> None:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .sign(key, SHA256())
    )
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / f"{name}.key").write_bytes(private)


def test_a_key_survives_the_store() -> None:
    """Every value comes back from its JSON."""
    key = stored().rotated(PEPPER.digest("x"), 2000, 60)
    assert parse_stored(render_stored(key)) == key
    for wrong in (b"{}", b"[]", b'{"digest":"zz","old_digest":null}', b"no"):
        with pytest.raises(ValueError, match=r"stored key|hexadecimal|JSON|char"):
            parse_stored(wrong)
