"""The thread that writes the audit log, and what it does while it cannot."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, Protocol

from serve_app.audit.store import Entry
from serve_app.audit.waiting import WaitingRecords
from serve_app.core.call import Record

logger = logging.getLogger("ray.serve")

BATCH_MAX = 1000
"""Records that are rendered and written together."""


class Store(Protocol):
    """A chain on disk; every method may raise OSError, and may be repeated then."""

    @property
    def is_open(self) -> bool:
        """Whether records can be appended."""
        ...

    def open(self) -> None:
        """Begin."""
        ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Write records and wait until the disk has them."""
        ...

    def seal(self) -> None:
        """Sign what has been written."""
        ...

    def close(self) -> None:
        """End."""
        ...


class AuditWriter:
    """Writes the waiting records at an interval, and repeats what has failed at the next one."""

    def __init__(
        self,
        store: Store,
        waiting: WaitingRecords,
        render: Callable[[Record], dict[str, Any]],
        *,
        interval_s: float,
        seal_s: float,
        where: str,
    ) -> None:
        self._store = store
        self._waiting = waiting
        self._render = render
        self._interval_s = interval_s
        self._seal_s = seal_s
        self._where = where
        self._batch: list[Entry] = []
        self._seal_at = time.monotonic() + seal_s
        self._stop = Event()
        self._thread: Thread | None = None
        self._failing_since: float | None = None
        self.written = 0
        self.failing = False

    @property
    def unwritten(self) -> int:
        """Records that are in memory only."""
        return len(self._waiting) + len(self._batch)

    def start(self) -> None:
        """Begin; further calls do nothing."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="audit-log", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what waits, end the chain and free its files. Blocks."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self.work()
        while not self._stop.wait(self._interval_s):
            self.work()
        self.work(ends=True)

    def work(self, *, ends: bool = False) -> None:
        """Write what waits; with `ends` for the last time. For the thread, and for tests."""
        try:
            self._write()
            if ends:
                self._store.close()
        except OSError as error:
            self._fail(error.strerror or str(error))
        except Exception:
            logger.exception("the audit log in %s failed", self._where)
            self._fail("a fault of this service")
        else:
            self._recover()
        if ends and self.unwritten:
            logger.error("the audit log in %s ends without %d records", self._where, self.unwritten)

    def _write(self) -> None:
        if not self._store.is_open:
            self._store.open()
        self._tell_missed()
        while self._batch or len(self._waiting):
            if not self._batch:
                records = self._waiting.take(BATCH_MAX)
                self._batch = [("call", self._render_call(record)) for record in records]
                self._batch += self._waiting.take_notes(BATCH_MAX)
            self._store.append(self._batch)
            self.written += len(self._batch)
            self._batch = []
        if time.monotonic() >= self._seal_at:
            self._store.seal()
            self._seal_at = time.monotonic() + self._seal_s

    def _render_call(self, record: Record) -> dict[str, Any]:
        try:
            return self._render(record)
        except Exception:
            # One record that cannot be rendered must not take the others of its batch with it.
            logger.exception("the record of request %s could not be rendered", record.request_id)
            return {"request_id": record.request_id, "unrendered": True}

    def _tell_missed(self) -> None:
        """A record in the place of those that are missing."""
        missed = self._waiting.untold()
        if not missed.lost and not missed.refused:
            return
        since = self._failing_since
        fields = {
            "time": _time(time.time()),
            "since": None if since is None else _time(since),
            "lost": missed.lost,
            "refused": missed.refused,
        }
        self._store.append([("gap", fields)])
        self._waiting.tell(missed)

    def _fail(self, why: str) -> None:
        if not self.failing:
            self.failing = True
            self._failing_since = time.time()
            logger.error("the audit log in %s cannot be written: %s", self._where, why)

    def _recover(self) -> None:
        if self.failing:
            self.failing = False
            self._failing_since = None
            logger.warning("the audit log in %s is written again", self._where)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
