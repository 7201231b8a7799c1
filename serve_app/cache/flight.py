"""One generation that several identical calls read.

A flight is generated in a task of its own, so that no call's end ends it while another call reads
it. The engine may be ahead of the slowest reader by the length of the longest answer that is kept;
then it waits, as it would wait for a client that reads slowly. While all chunks are kept, new
readers can join. Once the answer is longer than the longest answer that is kept, the chunks that
all readers have read are dropped, and no reader can join.

One of the readers pays: the call that began the flight, or another call once that call has left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from serve_app.core.call import CacheResult, Record, Usage
from serve_app.core.chunks import Take
from serve_app.core.errors import UpstreamFailed
from serve_app.core.headers import Headers
from serve_app.core.usage import read_usage
from serve_app.steps import Open


class Flight:
    """A generation, and the calls that read it. Ends when it is complete, or read by no call."""

    def __init__(
        self, begin: Open, payer: Record, *, keep_bytes_max: int, ended: Callable[[Flight], None]
    ) -> None:
        """`ended` is called once, before the last reader has read the end."""
        self.status = 0
        self.headers: Headers = []
        self.complete = False
        self.whole = True
        """Whether all chunks are still kept."""
        self._begin = begin
        self._owner = self._payer = payer
        self._stopped = payer.usage
        self._keep_bytes_max = keep_bytes_max
        self._ended = ended
        self._chunks: deque[bytes] = deque()
        self._dropped = 0
        self._bytes = 0
        self._error: Exception | None = None
        self._readers: list[Reader] = []
        self._usage = Usage()
        self._changed = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """The chunks that are kept."""
        return tuple(self._chunks)

    @property
    def owner(self) -> Record:
        """The record of the call that began the flight, with the decision that was carried out."""
        return self._owner

    @property
    def joinable(self) -> bool:
        """Whether another call can read the answer from its beginning."""
        return self.whole and self._error is None and not self._task.cancelling()

    def join(self, record: Record) -> Reader:
        """Let a call read the answer; the reader must `leave`."""
        reader = Reader(self, record)
        self._readers.append(reader)
        return reader

    async def leave(self, reader: Reader) -> None:
        """A call reads no more. The last call to leave ends the generation."""
        self._readers.remove(reader)
        self._wake()
        record = reader.record
        if record is self._payer and self.complete and record.usage.completion_tokens is None:
            # The call left while its engine was ahead of it, so it has not read the usage.
            record.usage = self._usage
        if self._readers:
            if record is self._payer and not self.complete:
                self._hand_over(record)
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        if record is self._payer and record is not self._owner:
            self._take_settlement(record)

    def _hand_over(self, record: Record) -> None:
        """Another reader pays for the tokens, which are counted once."""
        payer = self._payer = self._readers[0].record
        record.cache, payer.cache = CacheResult.SHARED, CacheResult.MISS
        record.usage, payer.draft = Usage(), record.draft
        record.draft = None

    def _take_settlement(self, record: Record) -> None:
        """Take over what the engine reports to the owner's record about an answer that was
        stopped."""
        record.settling += self._owner.settling
        self._owner.settling = []
        if not self.complete:
            record.usage = self._stopped

    async def _run(self) -> None:
        try:
            async with self._begin() as answer:
                self.status, self.headers = answer.status, answer.headers
                self._wake()
                while chunk := await answer.read():
                    self._add(chunk)
                    await self._wait_for_readers()
                self.complete = True
        except Exception as error:  # noqa: BLE001  # every reader raises it
            self._error = error
        finally:
            if not self.complete and self._error is None:
                self._error = UpstreamFailed()  # cancelled, so nobody should be reading
            self._ended(self)
            self._wake()

    def _add(self, chunk: bytes) -> None:
        read_usage(chunk, self._usage)
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        if self._bytes > self._keep_bytes_max:
            self.whole = False
        self._wake()

    async def _wait_for_readers(self) -> None:
        """Hold the engine back while the slowest reader is too far behind."""
        self._drop_read()
        while not self.whole and self._bytes > self._keep_bytes_max:
            self._changed.clear()
            await self._changed.wait()
            self._drop_read()

    def _drop_read(self) -> None:
        if self.whole or not self._readers:
            return
        read = min(reader.position for reader in self._readers)
        while self._dropped < read:
            self._bytes -= len(self._chunks.popleft())
            self._dropped += 1

    def _wake(self) -> None:
        self._changed.set()
        for reader in self._readers:
            reader.wake()

    def chunk_at(self, position: int) -> bytes | None:
        """The chunk at a position, b'' behind the last, None where it has not come yet."""
        index = position - self._dropped
        if index < len(self._chunks):
            return self._chunks[index]
        return b"" if self.complete else None

    def note_read(self) -> None:
        """A reader has taken a chunk."""
        if not self.whole:
            self._changed.set()

    def check(self) -> None:
        """Raise the error with which the generation has ended, if it has."""
        if self._error is not None:
            raise self._error


class Reader:
    """One call's view of a flight: an answer, read from its beginning."""

    def __init__(self, flight: Flight, record: Record) -> None:
        self.record = record
        self.position = 0
        self.status = 0
        self.headers: Headers = []
        self._flight = flight
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something has come."""
        self._news.set()

    async def wait_for_head(self) -> None:
        """Wait until the answer begins.

        Raises:
            GatewayError: no answer began.
        """
        while not self._flight.status:
            self._flight.check()
            await self._wait()
        self.status, self.headers = self._flight.status, self._flight.headers

    async def read(self) -> bytes:
        """The next chunk, b'' after the last.

        Raises:
            GatewayError: the answer broke off.
        """
        while (chunk := self._flight.chunk_at(self.position)) is None:
            self._flight.check()
            await self._wait()
        if chunk:
            self.position += 1
            self._flight.note_read()
        return chunk

    def divert(self, take: Take) -> None:
        """Every chunk is kept for the other calls."""

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()
