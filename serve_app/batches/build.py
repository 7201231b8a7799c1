"""Makes the store of batches from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from serve_app.batches.file_store import FileStoreUnavailable
from serve_app.batches.ledger import LedgerUnavailable
from serve_app.batches.notices import Post
from serve_app.batches.signing import parse_secret
from serve_app.batches.store import BatchStore
from serve_app.config.batches import BatchesConfig
from serve_app.config.reader import ConfigError, read_secret
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.webhooks import WebhookConfig

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
        from serve_app.batches.sql_notices import SqlNotices
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"batches: {missing.name} is not installed; pip install 'serve-app[batches]' brings it"
        ) from None
    posts = build_posts(config)
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
    return BatchStore(config, ledger, files, SqlNotices(ledger), posts)


def build_posts(config: BatchesConfig) -> dict[str, Post]:
    """The receivers of events.

    Raises:
        ValueError: names the secret that cannot be used.
    """
    if not config.webhooks:
        return {}
    # Only here, because a Router without receivers does not need the client.
    from serve_app.batches.webhook_post import WebhookPost

    return {
        hook.name: WebhookPost(hook, read_keys(hook), config.delivery.answer_s)
        for hook in config.webhooks
    }


def read_keys(hook: WebhookConfig) -> list[bytes]:
    """The keys that sign a receiver's events."""
    secrets = {"secret": hook.secret, "old_secret": hook.old_secret}
    keys = []
    for key, secret in secrets.items():
        if secret is not None:
            try:
                keys.append(parse_secret(read_secret(secret).decode("ascii", "replace")))
            except (ConfigError, ValueError) as error:
                raise ValueError(f"batches.webhooks.{hook.name}.{key}: {error}") from None
    return keys
