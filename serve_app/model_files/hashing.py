"""SHA-256 of many large files at once, in the memory of a few buffers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from serve_app.model_files.files import open_regular

BUFFER_BYTES = 1024 * 1024
THREADS_MAX = 8
"""More threads would only wait for the disk."""
PROGRESS_S = 0.2

Progress = Callable[[int, int], None]
"""Called a few times a second with the number of hashed bytes, and with the total."""


def no_progress(done_bytes: int, all_bytes: int) -> None:
    """Report no progress."""


class _Tally:
    """The state that the threads share: their progress, and whether to continue."""

    def __init__(self) -> None:
        self.done_bytes = 0
        self.stop = Event()
        self._lock = Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.done_bytes += count


def hash_files(
    directory: Path, files: Mapping[str, int], progress: Progress = no_progress
) -> dict[str, str]:
    """The SHA-256 of each file in hexadecimal. `files` also holds the sizes, as from `list_files`.

    Raises:
        OSError: a file cannot be read.
    """
    tally, all_bytes = _Tally(), sum(files.values())
    # The largest files first, so that no thread is left alone with a large file at the end.
    names = sorted(files, key=lambda name: -files[name])
    with ThreadPoolExecutor(min(THREADS_MAX, os.cpu_count() or 1)) as pool:
        futures = {name: pool.submit(_hash, directory / name, tally) for name in names}
        pending: set[Future[str]] = set(futures.values())
        try:
            while pending:
                done, pending = wait(pending, PROGRESS_S, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress(tally.done_bytes, all_bytes)
        finally:
            tally.stop.set()  # After a failure or Ctrl-C, leaving the pool waits for all threads.
    return {name: futures[name].result() for name in files}


def _hash(path: Path, tally: _Tally) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    with open_regular(path) as file:
        while not tally.stop.is_set() and (count := file.readinto(buffer)):
            digest.update(buffer[:count])
            tally.add(count)
    return digest.hexdigest()
