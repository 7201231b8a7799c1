"""The lines on their way to the feedback log: written together, and reported when on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context

from serve_app.feedback.store import FeedbackStore
from serve_app.feedback.tally import Fate, FeedbackTally

logger = logging.getLogger("ray.serve")

UNWRITTEN_BYTES_MAX = 16 * 1024 * 1024
"""The bytes that may wait for the disk; above it, feedback is rejected and samples are lost."""

Line = tuple[bytes, "asyncio.Future[bool]"]


class LineQueue:
    """The unwritten lines of one Router replica."""

    def __init__(self, tally: FeedbackTally, flush_s: float) -> None:
        self.store: FeedbackStore | None = None
        """None: lines are dropped."""
        self._tally = tally
        self._flush_s = flush_s
        self._lines: list[Line] = []
        self._bytes = 0
        self._writing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._failed = False

    @property
    def full(self) -> bool:
        """Whether the disk does not keep up."""
        return self._bytes > UNWRITTEN_BYTES_MAX

    def add(self, line: bytes) -> asyncio.Future[bool]:
        """Note a line, which is written `flush_s` later; the result says whether it was."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[bool] = loop.create_future()
        if self.full:
            self._tally.fates[Fate.UNWRITTEN] += 1
            written.set_result(False)
            return written
        self._lines.append((line, written))
        self._bytes += len(line)
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush_later(), context=Context())
        return written

    async def flush(self) -> None:
        """Write what waits. Lines that come meanwhile are written together by the next flush."""
        async with self._writing:
            lines, self._lines = self._lines, []
            if lines:
                _settle(lines, await self._write([line for line, _ in lines]))
            self._bytes = sum(len(line) for line, _ in self._lines)

    async def close(self) -> None:
        """Write the remaining lines."""
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        await self.flush()

    async def _flush_later(self) -> None:
        try:
            while self._lines:
                await asyncio.sleep(self._flush_s)
                # A cancelled flush would not know whether its lines were written.
                await asyncio.shield(self.flush())
        finally:
            self._flusher = None

    async def _write(self, lines: Sequence[bytes]) -> bool:
        if self.store is None:
            return False
        try:
            await asyncio.to_thread(self.store.write, lines)
        except OSError as error:
            self._lose(lines, self.store, error)
            return False
        self._failed = False
        return True

    def _lose(self, lines: Sequence[bytes], store: FeedbackStore, error: OSError) -> None:
        """Drop the lines; the log gets one error, until a write succeeds again."""
        self._tally.fates[Fate.UNWRITTEN] += len(lines)
        if not self._failed:
            self._failed = True
            logger.error(
                "feedback.directory %s cannot be written (%s); samples are lost and feedback is "
                "rejected until a write succeeds",
                store.directory,
                error.strerror or type(error).__name__,
            )


def _settle(lines: Sequence[Line], on_disk: bool) -> None:
    for _, written in lines:
        if not written.done():  # the caller of a report may have gone
            written.set_result(on_disk)
