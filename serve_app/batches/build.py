"""Makes the store of batches from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from serve_app.batches.file_store import FileStoreUnavailable
from serve_app.batches.ledger import LedgerUnavailable
from serve_app.batches.store import BatchStore
from serve_app.config.batches import BatchesConfig
from serve_app.config.runtime import RuntimeConfig

LEDGER = "ledger.sqlite"
FILES = "files"


class BatchesPlan(Protocol):
    """What the store is made of."""

    @property
    def runtime(self) -> RuntimeConfig: ...


def needs(plan: BatchesPlan) -> object:
    """The values that the store is made of."""
    return plan.runtime.batches


def build(plan: BatchesPlan) -> BatchStore:
    """The store of a Router.

    Raises:
        ValueError: names the key that no store can be made of.
    """
    config = plan.runtime.batches
    assert config is not None, "a store is made where the config asks for it"
    return build_store(config)


def build_store(config: BatchesConfig) -> BatchStore:
    """The store of a config.

    Raises:
        ValueError: names the key that no store can be made of.
    """
    try:
        from serve_app.batches.fsspec_files import FsspecFileStore
        from serve_app.batches.sql_ledger import SqlLedger
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"batches: {missing.name} is not installed; pip install 'serve-app[batches]' brings it"
        ) from None
    directory = Path(config.directory)
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"batches.directory: {directory} cannot be made: {error.strerror}"
        ) from None
    try:
        files = FsspecFileStore(config.files or str(directory / FILES))
    except (FileStoreUnavailable, ImportError, ValueError) as error:
        raise ValueError(f"batches.files: {error}") from None
    try:
        ledger = SqlLedger(config.database or f"sqlite:///{directory / LEDGER}")
    except LedgerUnavailable as error:
        raise ValueError(f"batches.database: {error}") from None
    return BatchStore(config, ledger, files)
