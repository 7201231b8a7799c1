"""API keys in a SQLite file that the Routers of a node and the operator's commands share."""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serve_app.access.digest import KeyDigest
from serve_app.access.store import KeySnapshot, KeyStoreUnavailable
from serve_app.access.stored_key import StoredKey, parse_digest, parse_stored, render_stored

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS keys (key_id TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS used (key_id TEXT PRIMARY KEY, at INTEGER NOT NULL);
"""
VERSION = "SELECT value FROM meta WHERE name = 'version'"
SET_VERSION = "INSERT OR REPLACE INTO meta VALUES ('version', ?)"
USED = "INSERT INTO used VALUES (?, ?) ON CONFLICT (key_id) DO UPDATE SET at = max(at, excluded.at)"


class SqliteKeyStore:
    """A KeyStore in a file. SQLite locks it between processes and writes it all or not at all.

    The file is opened anew for every operation, so that a file put in its place, for example from a
    backup, is seen. Its journal has the file's own mode.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        self._path = path
        self._wait_s = wait_s

    def create(self, pepper: KeyDigest) -> None:
        """Make the file with mode 0600 if it does not exist, or if its first maker was stopped."""
        try:
            if self._path.exists() and self._path.stat().st_size:
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._path.chmod(0o600)
        except OSError as error:
            raise KeyStoreUnavailable(f"{self._path}: {error.strerror}") from None
        with self._open() as database, self._change(database):
            for statement in SCHEMA.strip().split("\n"):
                database.execute(statement)
            values = ("pepper", pepper.hex())
            database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", values)

    def read(self, known: str | None = None) -> KeySnapshot | None:
        """All keys; None if their version is still the known one."""
        with self._open() as database:
            database.execute("BEGIN")
            [version] = database.execute(VERSION).fetchone()
            if version == known:
                return None
            [pepper] = database.execute("SELECT value FROM meta WHERE name = 'pepper'").fetchone()
            rows = database.execute("SELECT record FROM keys")
            keys = [parse_stored(record) for (record,) in rows]
            return KeySnapshot(version, parse_digest(pepper), {key.key_id: key for key in keys})

    def add(self, key: StoredKey) -> None:
        """Add a new key."""
        with self._open() as database, self._change(database):
            values = (key.key_id, render_stored(key).decode())
            database.execute("INSERT INTO keys VALUES (?, ?)", values)

    def change(self, key_id: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey | None:
        """Change a key under the file's lock."""
        with self._open() as database, self._change(database):
            row = database.execute("SELECT record FROM keys WHERE key_id = ?", [key_id]).fetchone()
            if row is None:
                return None
            key = change(parse_stored(row[0]))
            values = (render_stored(key).decode(), key_id)
            database.execute("UPDATE keys SET record = ? WHERE key_id = ?", values)
            return key

    def last_used(self) -> Mapping[str, int]:
        """When each key was used last."""
        with self._open() as database:
            return dict(database.execute("SELECT key_id, at FROM used").fetchall())

    def note_used(self, uses: Mapping[str, int]) -> None:
        """Write down uses in one transaction; the version of the keys stays."""
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(USED, uses.items())
            database.execute("COMMIT")

    def close(self) -> None:
        """There is nothing to free: no operation leaves the file open."""

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._check_file()
        # mode=rw: a missing file must not become an empty one.
        address = f"{self._path.absolute().as_uri()}?mode=rw"
        try:
            database = sqlite3.connect(
                address, uri=True, timeout=self._wait_s, isolation_level=None
            )
            try:
                yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise KeyStoreUnavailable(f"{self._path}: {error}") from None
        except (TypeError, ValueError):
            raise KeyStoreUnavailable(f"{self._path}: not a file of keys") from None

    def _check_file(self) -> None:
        """Raise for a file that SQLite would only call unable to open, or that others may write.

        The file is not opened here: closing it would end the locks of every other connection that
        this process has to it.
        """
        try:
            mode = self._path.stat().st_mode
        except OSError as error:
            raise KeyStoreUnavailable(f"{self._path}: {error.strerror}") from None
        if not stat.S_ISREG(mode) or not os.access(self._path, os.R_OK):
            raise KeyStoreUnavailable(f"{self._path}: not a file that this user may read")
        if mode & stat.S_IWOTH:
            raise KeyStoreUnavailable(f"{self._path}: every user may write it; run chmod 600 on it")

    @contextmanager
    def _change(self, database: sqlite3.Connection) -> Iterator[None]:
        """A transaction that gives the keys a new version."""
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute(SET_VERSION, [secrets.token_hex(16)])
        database.execute("COMMIT")
