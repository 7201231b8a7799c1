"""The file of keys, whose writer is killed at a random moment."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from serve_app.access.digest import Pepper
from serve_app.access.keys import create_key
from serve_app.access.sqlite_store import SqliteKeyStore
from serve_app.access.stored_key import StoredKey
from tests.killed import MOMENTS, kill_writer

PEPPER = Pepper(b"p" * 32)
WAIT_S = 5.0


def add_for_ever(directory: Path, sender: Connection) -> None:
    """A command that adds keys, and sends the ids of those that it has shown."""
    store = SqliteKeyStore(directory / "keys.sqlite", WAIT_S)
    store.create(PEPPER.digest("pepper"))
    while True:
        key = create_key()
        digest = PEPPER.digest(key.text)
        store.add(StoredKey(key.key_id, digest, "acme", "ann", ("dev",), "ci", 1000))
        sender.send(key.key_id)


@pytest.mark.parametrize("seed", MOMENTS)
def test_keys_that_were_shown_stay_valid(tmp_path: Path, seed: int) -> None:
    """Every added key is in the file, which the next reader can open."""
    shown = kill_writer(add_for_ever, tmp_path, seed, __name__)
    snapshot = SqliteKeyStore(tmp_path / "keys.sqlite", WAIT_S).read()
    assert snapshot is not None
    assert set(shown) <= snapshot.keys.keys()
