"""Takes the records of ended calls at once, and writes them out about once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from serve_app.core.call import Record
from serve_app.observe.access_log import AccessLog
from serve_app.observe.metrics import CallMetrics

logger = logging.getLogger("ray.serve")

FLUSH_S = 1.0
SETTLE_S = 2.0
"""How long the end of a Router waits for usages that replicas have not reported yet."""


class CallRecorder:
    """Feeds metrics and the access log; a separate task does all work that takes time.

    `settle` is called once for each ended call, as soon as its usage is known, and must not raise.

    One thread writes files, because a disk may be slow and the event loop serves calls.
    """

    def __init__(
        self,
        metrics: CallMetrics,
        access_log: AccessLog,
        leases: Mapping[str, Callable[[], tuple[int, int]]],
        flushers: Sequence[Callable[[], None]] = (),
        *,
        settle: Callable[[Record], None] = lambda record: None,
        flush_s: float = FLUSH_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._metrics = metrics
        self._access_log = access_log
        self._leases = leases
        self._flushers = flushers
        self._settle_call = settle
        self._flush_s = flush_s
        self._settle_s = settle_s
        self._records: list[Record] = []
        self._settling: dict[asyncio.Future[None], Record] = {}
        self._task: asyncio.Task[None] | None = None
        # One thread keeps the lines in order, also the lines of a flush that was cancelled.
        self._writer = ThreadPoolExecutor(1, "access-log")

    def finish(self, record: Record) -> None:
        """Take the record of an ended call, as soon as its usage is known."""
        if record.settling:
            told = record.settling.pop()
            self._settling[told] = record
            told.add_done_callback(self._settle)
            return
        self._end(record)
        self.start()

    def _end(self, record: Record) -> None:
        self._settle_call(record)
        self._records.append(record)

    def start(self) -> None:
        """Write out from now on, also without calls, so that an idle Router still has metrics."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._flush_forever())

    def _settle(self, told: asyncio.Future[None]) -> None:
        record = self._settling.pop(told, None)
        if record is not None:
            self.finish(record)

    async def flush(self) -> None:
        """Write out everything noted so far."""
        records, self._records = self._records, []
        loop = asyncio.get_running_loop()
        written = loop.run_in_executor(self._writer, self._access_log.write, records)
        try:
            for record in records:
                self._metrics.add(record)
            self._metrics.flush(self._leases)
            for flush in self._flushers:
                flush()
        finally:
            await written

    async def close(self) -> None:
        """Write out the remaining records, and end."""
        if self._settling:
            await asyncio.wait(list(self._settling), timeout=self._settle_s)
        for record in self._settling.values():
            self._end(record)
        self._settling.clear()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        try:
            await self.flush()
        finally:
            self._writer.shutdown()
            self._access_log.close()

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                await self.flush()
            except Exception:
                logger.exception("metrics or access log could not be written")
