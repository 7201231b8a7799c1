"""The log files of several Routers in one directory, and which of these Routers still live."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("ray.serve")

LOCK_SUFFIX = ".lock"
UNLOCKED_S = 3600.0
"""How long a log without a lock is kept after its last line: an older version may be writing it."""


class OwnedLogs:
    """The log of one Router, with its rotated files, beside the logs of other Routers.

    A lock on a separate file says that the Router lives: the kernel releases the lock however the
    process ends. The log file itself cannot hold the lock, because rotation gives its name to
    another file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = os.open(_lock_of(path), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let other Routers delete the log when they need its space."""
        os.close(self._lock)

    def prune_others(self, bytes_max: int) -> None:
        """Delete logs of ended Routers, oldest first, while all logs take more than `bytes_max`."""
        logs = sorted(_find_logs(self._path), key=_changed_at)
        taken = sum(_size(file) for log in logs for file in _files_of(log))
        for log in logs:
            if taken <= bytes_max:
                return
            if log != self._path:
                taken -= _delete_if_ended(log)


def _find_logs(path: Path) -> Iterator[Path]:
    """The logs that are or were written beside this log: `access_ID.jsonl`."""
    prefix = path.name.partition("_")[0]
    yield from path.parent.glob(f"{prefix}_*{path.suffix}")


def _files_of(log: Path) -> list[Path]:
    return [log, *log.parent.glob(f"{log.name}.*[0-9]")]


def _lock_of(log: Path) -> Path:
    return log.with_name(f".{log.name}{LOCK_SUFFIX}")


def _size(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _delete_if_ended(log: Path) -> int:
    """Delete a log with all its files, if its Router has ended; returns the freed bytes."""
    lock = _open_lock(log)
    try:
        if not (_is_old(log) if lock is None else _is_free(lock)):
            return 0
        freed = 0
        for file in (*_files_of(log), _lock_of(log)):
            freed += _size(file)
            file.unlink(missing_ok=True)
    finally:
        if lock is not None:
            os.close(lock)
    logger.info("deleted %d bytes of access logs of a Router that has ended", freed)
    return freed


def _open_lock(log: Path) -> int | None:
    with suppress(FileNotFoundError):
        return os.open(_lock_of(log), os.O_RDWR | os.O_CLOEXEC)
    return None


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_old(log: Path) -> bool:
    return time.time() - _changed_at(log) > UNLOCKED_S


def _changed_at(log: Path) -> float:
    with suppress(FileNotFoundError):
        return log.stat().st_mtime
    return 0.0
