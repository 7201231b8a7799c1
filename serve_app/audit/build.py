"""Makes the audit log of a Router from its config."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Protocol

from serve_app.audit.log import AuditLog
from serve_app.audit.record import render_call
from serve_app.audit.texts import render_texts
from serve_app.audit.waiting import WaitingRecords
from serve_app.audit.writer import AuditWriter, Store
from serve_app.config.audit import AuditConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import Record
from serve_app.core.redact import Redactor


class LogPlan(Protocol):
    """What the log is made of, beside its own config."""

    @property
    def runtime(self) -> RuntimeConfig: ...

    @property
    def replica(self) -> str: ...


def needs(plan: LogPlan) -> object:
    """The values that the log is made of."""
    prices = plan.runtime.prices
    return plan.runtime.audit, None if prices is None else prices.currency, plan.replica


def build(plan: LogPlan) -> AuditLog:
    """The log of a Router.

    Raises:
        ValueError: names the key that no log can be made of.
    """
    config, prices = plan.runtime.audit, plan.runtime.prices
    assert config is not None, "a log is made where the config asks for it"
    currency = None if prices is None else prices.currency
    return build_log(config, currency, plan.replica, socket.gethostname())


def build_log(config: AuditConfig, currency: str | None, replica: str, host: str) -> AuditLog:
    """The log of one replica on one machine.

    Raises:
        ValueError: names the key that no log can be made of.
    """
    for key, path in (("directory", config.directory), ("state_directory", config.state)):
        _check_directory(key, Path(path))
    store = _build_store(config, replica, host)
    waiting = WaitingRecords(config.waiting_max, keeps_all=config.on_full == "refuse")
    render = _Renderer(config, currency)
    writer = AuditWriter(
        store,
        waiting,
        render,
        interval_s=config.fsync_s,
        seal_s=config.seal_s,
        where=config.directory,
    )
    return AuditLog(config, waiting, writer)


def _build_store(config: AuditConfig, replica: str, host: str) -> Store:
    try:
        from serve_app.audit.seal import BadKey, read_signer
        from serve_app.audit.store import ChainStore, StoreOptions
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"audit: {missing.name} is not installed; pip install 'serve-app[access]' brings it"
        ) from None
    try:
        signer = read_signer(Path(config.key_file))
    except BadKey as error:
        raise ValueError(f"audit.key_file: {error}") from None
    options = StoreOptions(
        directory=Path(config.directory),
        state_directory=Path(config.state),
        file_bytes_max=config.file_bytes_max,
        rotate_s=config.rotate_s,
        compresses=config.compress != "none",
        retention_days=config.retention_days,
        host=host,
        replica=replica,
    )
    return ChainStore(options, signer)


def _check_directory(key: str, path: Path) -> None:
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"audit.{key}: {path} cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"audit.{key}: {path} cannot be written")


class _Renderer:
    """Renders a record, with its texts if they are kept."""

    def __init__(self, config: AuditConfig, currency: str | None) -> None:
        self._redactor = Redactor(config.redact) if config.content else None
        self._currency = currency

    def __call__(self, record: Record) -> dict[str, Any]:
        fields = render_call(record, self._currency)
        if record.content is not None and self._redactor is not None:
            fields |= render_texts(record.content, self._redactor)
        return fields
