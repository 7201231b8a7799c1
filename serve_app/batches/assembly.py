"""Writes the output file and the error file of a batch from its results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import TypeVar

from serve_app.batches.batch import (
    BACKGROUND,
    BACKGROUND_PREFIX,
    OUTPUT,
    Batch,
    BatchStatus,
    StoredFile,
)
from serve_app.batches.file_store import FileMissing, FileStore
from serve_app.batches.ledger import BatchLedger
from serve_app.batches.lines import read_custom_id, render_undone

logger = logging.getLogger("ray.serve")

T = TypeVar("T")
Writing = Generator[None, None, T]
NO_RESULT = (0, b"")

UNDONE = {
    BatchStatus.FINALIZING: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    BatchStatus.CANCELLING: (
        "batch_cancelled",
        "This request was not executed because its batch was cancelled.",
    ),
}


class Assembly:
    """The writing of both files, a slice of time after another.

    The ids of the files follow from the batch, and their contents from the ledger, which takes no
    result any more. So a second worker that does the same writes the same.
    """

    def __init__(
        self,
        batch: Batch,
        ledger: BatchLedger,
        files: FileStore,
        *,
        writer: str,
        line_bytes_max: int,
        clock: Callable[[], float],
    ) -> None:
        self._batch = batch
        self._ledger = ledger
        self._files = files
        self._writer = writer
        self._line_bytes_max = line_bytes_max
        self._clock = clock
        self._steps = self._write()
        self.output: StoredFile | None = None
        self.errors: StoredFile | None = None

    def work(self, seconds: float) -> bool:
        """Write for about so long; returns whether both files are complete."""
        until = time.perf_counter() + seconds
        return all(time.perf_counter() < until for _ in self._steps)

    def close(self) -> None:
        """Drop what is written of a file that is not complete."""
        self._steps.close()

    def _write(self) -> Writing[None]:
        batch = self._batch
        answered = (line for _, line in self._ledger.results(batch.batch_id, ok=True))
        self.output = yield from self._write_file("output", answered)
        self.errors = yield from self._write_file("error", self._unanswered())

    def _write_file(self, kind: str, lines: Iterator[bytes | None]) -> Writing[StoredFile | None]:
        """Write the lines as a file; there is no file without lines."""
        batch_id = self._batch.batch_id
        first = yield from _find_first(lines)
        if first is None:
            return None
        file_id = f"file-{batch_id.removeprefix('batch_')}-{kind}"
        size_bytes = 0
        with self._files.create(file_id, self._writer) as sink:
            for line in chain([first], lines):
                if line is not None:
                    sink.write(line)
                    size_bytes += len(line)
                yield
        name = f"{batch_id}_{kind}.jsonl"
        purpose = BACKGROUND if batch_id.startswith(BACKGROUND_PREFIX) else OUTPUT
        tenant = self._batch.owner.tenant
        return StoredFile(file_id, tenant, purpose, name, size_bytes, self._clock())

    def _unanswered(self) -> Iterator[bytes | None]:
        """The lines that failed, and those that were never answered, in the file's order."""
        batch = self._batch
        failed = self._ledger.results(batch.batch_id, ok=False)
        if batch.completed + batch.failed == batch.total:
            yield from (line for _, line in failed)
            return
        done = self._ledger.answered_lines(batch.batch_id)
        number, document = next(failed, NO_RESULT)
        for line, raw in enumerate(self._input_lines(), start=1):
            if line == number:
                yield document
                number, document = next(failed, NO_RESULT)
            elif line in done or not raw.strip():
                yield None
            else:
                code, message = UNDONE[batch.status]
                yield render_undone(batch.batch_id, line, read_custom_id(raw), code, message)

    def _input_lines(self) -> Iterator[bytes]:
        try:
            yield from self._files.lines(self._batch.input_file_id, self._line_bytes_max)
        except FileMissing:
            logger.error("the input file of %s is gone", self._batch.batch_id)


def _find_first(lines: Iterator[bytes | None]) -> Writing[bytes | None]:
    for line in lines:
        if line is not None:
            return line
        yield
    return None
