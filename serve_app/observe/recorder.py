"""Where the records of ended calls go: noted at once, written out about once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from serve_app.core.call import Record
from serve_app.observe.access_log import AccessLog
from serve_app.observe.metrics import CallMetrics

logger = logging.getLogger("ray.serve")

FLUSH_S = 1.0


class CallRecorder:
    """Feeds metrics and the access log; a task of its own does everything that costs time."""

    def __init__(
        self,
        metrics: CallMetrics,
        access_log: AccessLog,
        leases: Mapping[str, Callable[[], tuple[int, int]]],
        flushers: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._metrics = metrics
        self._access_log = access_log
        self._leases = leases
        self._flushers = flushers
        self._records: list[Record] = []
        self._task: asyncio.Task[None] | None = None

    def finish(self, record: Record) -> None:
        """Take the record of an ended call, as soon as its usage is known."""
        if record.settling:
            told = record.settling.pop()
            told.add_done_callback(lambda _: self.finish(record))
            return
        self._records.append(record)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._flush_forever())

    def flush(self) -> None:
        """Write out everything noted so far."""
        records, self._records = self._records, []
        for record in records:
            self._metrics.add(record)
            self._access_log.add(record)
        self._metrics.flush(self._leases)
        for flush in self._flushers:
            flush()
        self._access_log.flush()

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                self.flush()
            except Exception:
                logger.exception("metrics or access log could not be written")
