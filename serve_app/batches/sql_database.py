"""The database of batches: SQLite or PostgreSQL.

Every change is one transaction. A process that is killed leaves a transaction whole or undone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from serve_app.batches.ledger import LedgerUnavailable
from serve_app.batches.tables import METADATA

WAIT_S = 30.0
"""How long a change may wait for another process's change."""
CREATE_TRIES, CREATE_PAUSE_S = 5, 0.2


class SqlDatabase:
    """A database that any number of processes may share."""

    def __init__(self, address: str) -> None:
        """Raises LedgerUnavailable where the database cannot be opened."""
        self._sqlite = make_url(address).get_backend_name() == "sqlite"
        with _failures():
            self._engine = open_engine(address)
        self._create_tables()

    def _create_tables(self) -> None:
        """Make what is not there; another Router may be making it at this moment."""
        for tries_left in reversed(range(CREATE_TRIES)):
            try:
                with _failures():
                    METADATA.create_all(self._engine)
                return
            except LedgerUnavailable:
                if not tries_left:
                    raise
                time.sleep(CREATE_PAUSE_S)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for questions."""
        with _failures(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A transaction, undone if the block raises."""
        with _failures(), self._engine.begin() as connection:
            if self._sqlite:
                # A transaction that began by reading could not become one that writes.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


def open_engine(address: str) -> Engine:
    """The pool of connections to a database."""
    if make_url(address).get_backend_name() != "sqlite":
        return create_engine(address, pool_pre_ping=True)
    # `isolation_level` None leaves the beginning of transactions to the ledger.
    arguments = {"timeout": WAIT_S, "isolation_level": None, "check_same_thread": False}
    engine = create_engine(address, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        # Readers and the writer do not wait for each other; a commit is on disk when it returns.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    return engine


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise LedgerUnavailable(f"{type(cause).__name__}: {cause}") from error
