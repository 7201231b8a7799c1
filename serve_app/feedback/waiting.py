"""The samples that wait for a label, on disk, so that they survive their Router.

Each Router has a directory of its own with one file per sample, and locks it while it lives. The
lock ends with the process, so another Router can tell the samples of a dead Router from those of a
living one, and takes them over. The files hold redacted texts only: a label that another Router
makes compares the answers to the redacted question.
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from serve_app.core.call import Endpoint, Turn
from serve_app.feedback.sample import Sample

PREFIX = "waiting_"
SUFFIX = ".json"
OWNERS_MAX = 3
"""A sample that has outlived so many Routers may be what ends them, and is given up."""


class WaitingSamples:
    """The files of one Router replica in the directory of the feedback log. All methods block."""

    def __init__(self, directory: Path, replica: str) -> None:
        self.directory = directory
        self._own = directory / f"{PREFIX}{replica}"
        self._lock: int | None = None
        self._opening = threading.Lock()

    def keep(self, document: bytes) -> Path:
        """Keep a rendered sample; returns its file, to delete when the sample has its label.

        The file survives the end of the process, but is not synced: a loss of power may cost it.

        Raises:
            OSError: the disk does not take it.
        """
        self._open()
        path = self._own / f"1-{uuid.uuid4().hex}{SUFFIX}"
        unfinished = path.with_suffix(".part")
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(file, "wb") as target:
                target.write(document)
            unfinished.rename(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return path

    def adopt(self, count_max: int) -> list[Sample]:
        """Take over the samples of Routers that have ended, at most this many.

        Raises:
            OSError: the directory cannot be read or written.
        """
        samples: list[Sample] = []
        for directory in sorted(self.directory.glob(f"{PREFIX}*")):
            if directory != self._own and len(samples) < count_max:
                with _locked_if_free(directory) as is_free:
                    if is_free:
                        samples += self._take_over(directory, count_max - len(samples))
        return samples

    def clear(self) -> None:
        """Delete the files, because their samples are dropped."""
        for path in self._own.glob("*"):
            path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let other Routers take over the samples that still wait."""
        with self._opening:
            if self._lock is not None:
                with suppress(OSError):  # samples wait in it
                    self._own.rmdir()
                os.close(self._lock)
                self._lock = None

    def _open(self) -> None:
        with self._opening:
            while self._lock is None:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._own.mkdir(mode=0o700, exist_ok=True)
                self._lock = _lock(self._own)

    def _take_over(self, directory: Path, count_max: int) -> list[Sample]:
        samples: list[Sample] = []
        for path in sorted(directory.iterdir()):
            if len(samples) == count_max:
                return samples
            if (sample := self._take_file(path)) is not None:
                samples.append(sample)
        directory.rmdir()
        return samples

    def _take_file(self, path: Path) -> Sample | None:
        """The sample of a dead Router, now in a file of this Router; None if it is unusable."""
        owners, _, name = path.name.partition("-")
        try:
            if path.suffix != SUFFIX or int(owners) >= OWNERS_MAX:
                raise ValueError(path.name)
            sample = parse_sample(path.read_bytes())
        except (ValueError, TypeError, KeyError):
            path.unlink(missing_ok=True)
            return None
        self._open()
        sample.file = path.rename(self._own / f"{int(owners) + 1}-{name}")
        return sample


def render_sample(sample: Sample, turns: list[tuple[str, str]], answer: str, body: bytes) -> bytes:
    """A sample with redacted texts in the place of its own."""
    return orjson.dumps(
        {
            "request_id": sample.request_id,
            "endpoint": sample.endpoint.value,
            "turns": turns,
            "answer": answer,
            "other": sample.other,
            "other_is_large": sample.other_is_large,
            "body": body.decode(),
        }
    )


def parse_sample(document: bytes) -> Sample:
    """A rendered sample.

    Raises:
        ValueError, TypeError, KeyError: it is none, for example because a loss of power cut it.
    """
    found = orjson.loads(document)
    return Sample(
        request_id=found["request_id"],
        endpoint=Endpoint(found["endpoint"]),
        turns=tuple(Turn(role, text) for role, text in found["turns"]),
        answer=found["answer"],
        other=found["other"],
        other_is_large=found["other_is_large"],
        body=found["body"].encode(),
    )


@contextmanager
def _locked_if_free(directory: Path) -> Iterator[bool]:
    """Lock a directory; yields whether no living process holds the lock."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:  # another Router has just taken it over
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _lock(directory: Path) -> int | None:
    """Hold the lock of a directory; None if the directory has just been removed."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(file, fcntl.LOCK_EX)
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file), directory.stat()):
            return file
    os.close(file)
    return None
