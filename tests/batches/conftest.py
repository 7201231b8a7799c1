"""Ledgers in both databases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_app.batches.sql_ledger import SqlLedger
from serve_app.batches.tables import METADATA
from tests.batches.disk import mounted
from tests.batches.postgres import find_binaries, running_postgres

OpenLedger = Callable[[], SqlLedger]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of one server for all tests."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    # Its user may not look into pytest's directories.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with running_postgres(binaries, Path(directory)) as address:
            yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    found: str = request.getfixturevalue("postgres")
    ledger = SqlLedger(found)
    METADATA.drop_all(ledger._engine)
    ledger.close()
    return found


@pytest.fixture
def ledger(address: str) -> Iterator[SqlLedger]:
    """An empty ledger."""
    opened = SqlLedger(address)
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    with mounted(tmp_path / "disk") as place:
        yield place
