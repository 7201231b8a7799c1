"""The journal of the owner's counters: one SQLite file, synced before a Router may spend."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from serve_app.limits.owner import Entry, Peer

FILE = "limits.sqlite3"
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA busy_timeout = 5000;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT, slot INTEGER, used INTEGER, ends INTEGER, PRIMARY KEY (key, slot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS routers (
    name TEXT PRIMARY KEY, number INTEGER, last INTEGER, seen INTEGER
) WITHOUT ROWID;
"""


class SqliteJournal:
    """Keeps the counters in a directory, which must lie on a local disk."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = sqlite3.connect(
            directory / FILE, isolation_level=None, check_same_thread=False
        )
        self._file.executescript(SCHEMA)

    def load(self) -> tuple[Iterable[Entry], Mapping[str, Peer]]:
        """Everything that was written."""
        entries = self._file.execute("SELECT key, slot, used, ends FROM entries").fetchall()
        peers = self._file.execute("SELECT name, number, last, seen FROM routers").fetchall()
        return [Entry(*row) for row in entries], {name: Peer(*rest) for name, *rest in peers}

    def write(self, entries: Iterable[Entry], peers: Mapping[str, Peer]) -> None:
        """Write in one transaction, which is on the disk when this returns."""
        rows = [(one.key, one.slot, one.used, one.ends) for one in entries]
        names = [(name, peer.number, peer.last, peer.seen) for name, peer in peers.items()]
        self._file.execute("BEGIN")
        try:
            self._file.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
            self._file.executemany("INSERT OR REPLACE INTO routers VALUES (?, ?, ?, ?)", names)
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def prune(self, now: int, peers: Iterable[str]) -> None:
        """Forget entries that have ended, places that are free, and these Routers."""
        self._file.execute("DELETE FROM entries WHERE ends <= ? OR used = 0", (now,))
        self._file.executemany("DELETE FROM routers WHERE name = ?", [(name,) for name in peers])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
