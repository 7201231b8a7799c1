"""The audit log of a Router that is killed at a random moment."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

import orjson
import pytest

from serve_app.audit.seal import write_keys
from tests.audit.conftest import Place, make_record
from tests.killed import MOMENTS, kill_writer

POLL_S = 0.001


def record_for_ever(root: Path, sender: Connection) -> None:
    """A Router that records calls, and sends how many the log counts as written."""
    log, number = Place(root).open(fsync_s=0.01, seal_s=0), 0
    log.start()
    while True:
        log.add(make_record(number))
        number += 1
        if log.state().written:
            sender.send(log.state().written)
        time.sleep(POLL_S)


@pytest.mark.parametrize("seed", MOMENTS)
def test_written_records_survive_their_router(tmp_path: Path, seed: int) -> None:
    """Every record that the log counts as written is there, and the next Router's log verifies."""
    place = Place(tmp_path)
    place.keys.mkdir()
    write_keys(place.keys / "audit.key")
    written = kill_writer(record_for_ever, tmp_path, seed, __name__)
    place.write(1, replica="r2")
    lines = [line for path in place.files() for line in path.read_bytes().splitlines()]
    calls = [found for found in map(orjson.loads, lines) if found["kind"] == "call"]
    ids = [found["request_id"] for found in calls]
    assert ids[:-1] == [f"r{number}" for number in range(len(ids) - 1)]
    assert len(ids) - 1 >= written[-1]
    assert place.findings() == []
