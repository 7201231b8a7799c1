"""The tables of the ledger."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

METADATA = MetaData()


class Word(TypeDecorator[str]):
    """A value of a StrEnum, as the plain text that every driver takes."""

    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else str(value)


FILES = Table(
    "files",
    METADATA,
    Column("file_id", String(64), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Index("files_by_tenant", "tenant", "created_at", "file_id"),
)

BATCHES = Table(
    "batches",
    METADATA,
    Column("batch_id", String(64), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("owner", Text, nullable=False),
    Column("endpoint", String(128), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("status", Word, nullable=False),
    # The state that the batch ends in once its files are written.
    Column("ends_as", Word, nullable=False),
    Column("began_at", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("faults", Text, nullable=False),
    Index("batches_by_tenant", "tenant", "created_at", "batch_id"),
    Index("batches_by_status", "status", "expires_at"),
)

WORK = Table(
    "work",
    METADATA,
    Column("batch_id", String(64), primary_key=True),
    Column("job", Word, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("line", Integer, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("offset_bytes", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # Only open work can be claimed.
    Column("open", Boolean, nullable=False),
    Column("worker", String(128)),
    Column("leased_until", Float(53), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Index("open_work", "open", "batch_id", "leased_until"),
)

RESULTS = Table(
    "results",
    METADATA,
    Column("batch_id", String(64), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("ok", Boolean, nullable=False),
    Column("document", LargeBinary, nullable=False),
)

NOTICES = Table(
    "notices",
    METADATA,
    Column("event_id", String(64), primary_key=True),
    Column("hook", String(32), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    # While a sender has the event, the end of its lease.
    Column("due_at", Float(53), nullable=False),
    Column("tries", Integer, nullable=False),
    Index("due_notices", "hook", "due_at"),
)
