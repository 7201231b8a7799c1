"""Which calls are traced, and the sending of their traces to the collector."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from typing import Protocol

from serve_app.config.traces import TracesConfig
from serve_app.core.call import Record
from serve_app.core.trace import Trace, TraceParent, make_id, parse_traceparent
from serve_app.traces.spans import FAULTS, Ended

logger = logging.getLogger("ray.serve")

FLUSH_S = 1.0
BATCH_MAX = 256
"""The traces that are sent in one piece."""


class Exporter(Protocol):
    """Sends traces to the collector; for one thread."""

    def send(self, ended: Sequence[Ended]) -> bool:
        """Whether the collector has taken them. Blocks for a bounded time."""
        ...

    def close(self) -> None:
        """Free every resource."""
        ...


class SampledTracer:
    """Traces a share of the calls, and calls that fail by our fault.

    What waits for the collector is bounded. One thread makes the spans and sends them, so neither
    a slow collector nor one that is away delays a call.
    """

    def __init__(
        self,
        config: TracesConfig,
        exporter: Exporter,
        *,
        draw: Callable[[], float] = random.random,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._config = config
        self._exporter = exporter
        self._draw = draw
        self._flush_s = flush_s
        self._waiting: deque[Ended] = deque()
        self._lost = 0
        self._failed = False
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "traces")

    def start(self) -> None:
        """Send from now on."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._flush_forever(), context=Context())

    def begin(self, traceparent: bytes | None) -> Trace:
        """The trace of a call that has arrived, as a part of the client's trace if it has one."""
        parent = None if traceparent is None else parse_traceparent(traceparent)
        sampled = self._samples(parent)
        if parent is None:
            return Trace(make_id(128), make_id(64), None, sampled)
        return Trace(parent.trace_id, make_id(64), parent.span_id, sampled)

    def _samples(self, parent: TraceParent | None) -> bool:
        if parent is not None and self._config.follow_parent:
            return parent.sampled
        return self._draw() < self._config.sample_ratio

    def end(self, record: Record, trace: Trace) -> None:
        """Take the trace of an ended call."""
        failed = self._config.errors and record.outcome in FAULTS
        if not trace.sampled and not failed:
            return
        if len(self._waiting) >= self._config.waiting_max:
            self._lost += 1
            return
        self._waiting.append(Ended(record, trace))

    async def close(self) -> None:
        """Send what waits, if the collector takes it, and end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.flush()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._exporter.close)
        self._thread.shutdown()

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            await self.flush()

    async def flush(self) -> None:
        """Send all that waits. If the collector is away, the rest waits for the next time."""
        loop = asyncio.get_running_loop()
        taken = True
        while self._waiting and taken:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
            taken = await loop.run_in_executor(self._thread, self._send, batch)
            if not taken:
                self._lost += len(batch)
        self._tell(taken=taken)

    def _send(self, batch: Sequence[Ended]) -> bool:
        try:
            return self._exporter.send(batch)
        except Exception:
            logger.exception("traces could not be made")
            return False

    def _tell(self, *, taken: bool) -> None:
        """Log that traces are lost, and once more when the collector takes them again."""
        if taken and self._failed:
            logger.warning("traces: the collector is back; lost: %d", self._lost)
            self._lost = 0
        elif not taken and not self._failed:
            logger.warning("traces: the collector takes none; traces are lost until it does")
        self._failed = not taken
