"""One chain on disk: takes up where the last Router on this machine has stopped, and goes on."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from serve_app.audit.chain import NotALine, origin, read_head, render_line, split_line
from serve_app.audit.files import (
    LOCK,
    SEALS,
    STATE,
    AppendedFile,
    LogFile,
    chain_name,
    compress,
    find_logs,
    plain_path,
    replace_file,
    sync_directory,
)
from serve_app.audit.seal import Seal, Signer, render_seal
from serve_app.config.tiers import DAY_S

logger = logging.getLogger("ray.serve")

SLOTS_MAX = 1024
"""The chains of one machine; each Router that lives there has its own."""

Fields = Mapping[str, Any]
Entry = tuple[str, Fields]
"""The kind of a record, and its other fields."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where a chain is kept, and when its files end."""

    directory: Path
    state_directory: Path
    file_bytes_max: int
    rotate_s: float
    compresses: bool
    retention_days: int | None
    host: str
    replica: str


@dataclass(slots=True)
class Tail:
    """The end of a chain: the last record's number and hash, and what a seal needs to know."""

    seq: int
    digest: bytes
    file: int
    sealed_seq: int = 0


@dataclass(slots=True)
class _End:
    """What the files of a chain say about its end.

    `holds_state` says that the chain holds the newest seal, so that nothing is missing at its end.
    """

    tail: Tail
    kind: str | None = None
    seals: list[Seal] = field(default_factory=list)
    holds_state: bool = True
    began_at: float | None = None


class ChainStore:
    """The files of one chain; for one thread. Every method may raise OSError, and can be repeated
    after that: what could not be written has changed nothing."""

    def __init__(
        self, options: StoreOptions, signer: Signer, clock: Callable[[], float] = time.time
    ) -> None:
        self._options = options
        self._signer = signer
        self._clock = clock
        self._lock: int | None = None
        self._file: AppendedFile | None = None
        self._seals: AppendedFile | None = None
        self._unfiled: list[Seal] = []
        self._began_at = 0.0
        self.chain = ""
        self._tail = Tail(0, b"", 0)

    @property
    def is_open(self) -> bool:
        """Whether records can be appended."""
        return self._file is not None

    @property
    def unsealed(self) -> bool:
        """Whether there are records that no seal covers."""
        return self._tail.seq > self._tail.sealed_seq + 1

    def open(self) -> None:
        """Find a chain that no living Router uses, repair its end, and begin a section of it."""
        options = self._options
        for directory in (options.directory, options.state_directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if self._lock is None:
            self._take_slot()
        try:
            self._resume()
        except OSError:
            self._close_files()
            raise

    def append(self, entries: Sequence[Entry]) -> None:
        """Write records and wait until the disk has them."""
        assert self._file is not None, "records are appended to an open store"
        if self._is_full():
            self._rotate()
        self._append(entries)

    def seal(self) -> None:
        """Sign the newest hash, and write the seal to all three places."""
        if self.unsealed:
            self._append_seal()
        self._file_seals()

    def close(self) -> None:
        """Write the last record and its seal, and let another Router have the chain."""
        try:
            if self.is_open:
                self._append([("end", {"time": self._now()})])
                self.seal()
        finally:
            self._close_files()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _close_files(self) -> None:
        for file in (self._file, self._seals):
            if file is not None:
                file.close()
        self._file = self._seals = None

    def _take_slot(self) -> None:
        for slot in range(1, SLOTS_MAX + 1):
            chain = chain_name(self._options.host, slot)
            path = self._options.directory / f"{chain}{LOCK}"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self.chain, self._lock = chain, lock
            return
        raise BlockingIOError("every chain is in use")

    def _resume(self) -> None:
        directory = self._options.directory
        self._seals = AppendedFile(directory / f"{self.chain}{SEALS}")
        self._seals.cut_torn_line()
        files = find_logs(directory).get(self.chain, [])
        torn = _repair(files)
        state = self._read_state()
        end = self._read_end(files, state)
        self._tail = end.tail
        self._refile(end.seals)
        self._continue(end, files[-1] if files else None)
        self._append([("start", self._describe_start(end, torn))])
        self.seal()
        self._tidy()

    def _continue(self, end: _End, last: LogFile | None) -> None:
        """Go on in the last file; in a new one, if that file is compressed or has no record."""
        if not end.holds_state:
            self._begin_file(1 + max(end.tail.file, last.number if last else 0))
        elif last is None or last.packed or last.number != end.tail.file:
            self._begin_file(1 + end.tail.file)
        else:
            self._file = AppendedFile(last.path)
            self._began_at = math.inf if end.began_at is None else end.began_at

    def _describe_start(self, end: _End, torn: int) -> Fields:
        previous = {None: None, "end": "ended"}.get(end.kind, "killed")
        return {
            "time": self._now(),
            "replica": self._options.replica,
            "previous": previous,
            "torn_bytes": torn,
        }

    def _read_end(self, files: Sequence[LogFile], state: Seal | None) -> _End:
        """The end of the chain in its files; or, if they lack the newest seal, that seal's record:
        then the gap stays visible for ever."""
        end = _End(Tail(0, origin(self.chain), 0), holds_state=state is None)
        for file in reversed(files):
            first_seq = _read_file(file, state, end)
            if end.tail.seq and (state is None or (first_seq and first_seq <= state.seq)):
                break
        if state is not None and not end.holds_state:
            end.tail = Tail(state.seq, bytes.fromhex(state.head), state.file)
        return end

    def _refile(self, sealed: Sequence[Seal]) -> None:
        """File the seals that a Router wrote into the chain just before it was killed."""
        assert self._seals is not None, "the file of seals is opened first"
        last = _last_line(self._seals.path)
        known = orjson.loads(last)["seq"] if last else 0
        self._unfiled = [seal for seal in sealed if seal.seq > known]

    def _read_state(self) -> Seal | None:
        try:
            return Seal(**orjson.loads(self._state_path.read_bytes()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise OSError(f"{self._state_path} is damaged") from error

    @property
    def _state_path(self) -> Path:
        return self._options.state_directory / f"{self.chain}{STATE}"

    def _is_full(self) -> bool:
        assert self._file is not None, "records are appended to an open store"
        old = self._clock() - self._began_at >= self._options.rotate_s
        return old or self._file.size >= self._options.file_bytes_max

    def _rotate(self) -> None:
        self.seal()
        old = self._file
        self._begin_file(self._tail.file + 1)
        if old is not None:
            old.close()
        self._tidy()

    def _begin_file(self, number: int) -> None:
        """A new file, whose first record repeats the hash before it."""
        now = self._clock()
        path = plain_path(self._options.directory, self.chain, number)
        file = AppendedFile(path)
        fields = {
            "time": _time(now),
            "chain": self.chain,
            "file": number,
            "prev": self._tail.digest.hex(),
        }
        seq = self._tail.seq + 1
        line, digest = render_line(self._tail.digest, seq, "file", fields)
        try:
            file.cut(0)
            file.append(line)
            sync_directory(self._options.directory)
        except OSError:
            file.close()
            raise
        self._file, self._began_at = file, now
        self._tail.seq, self._tail.digest, self._tail.file = seq, digest, number

    def _append(self, entries: Sequence[Entry]) -> None:
        assert self._file is not None, "records are appended to an open store"
        seq, digest = self._tail.seq, self._tail.digest
        lines: list[bytes] = []
        for kind, fields in entries:
            seq += 1
            line, digest = render_line(digest, seq, kind, fields)
            lines.append(line)
        self._file.append(b"".join(lines))
        self._tail.seq, self._tail.digest = seq, digest

    def _append_seal(self) -> None:
        tail = self._tail
        made = self._signer.sign(self.chain, tail.file, tail.seq, tail.digest, self._clock())
        self._append([("seal", {"seal": render_seal(made)})])
        tail.sealed_seq = made.seq
        self._unfiled.append(made)

    def _file_seals(self) -> None:
        """Write the seals to the two places outside the chain: first beside it, then elsewhere."""
        assert self._seals is not None, "seals are filed by an open store"
        if not self._unfiled:
            return
        rendered = [orjson.dumps(render_seal(seal)) for seal in self._unfiled]
        self._seals.append(b"\n".join([*rendered, b""]))
        replace_file(self._state_path, rendered[-1])
        # Not before, so that both places get the seals again if the second one fails.
        self._unfiled.clear()

    def _tidy(self) -> None:
        """Compress and delete closed files. Records can be written even if that fails."""
        try:
            self._tidy_closed()
        except OSError as error:
            logger.warning(
                "closed files of audit.directory could not be compressed or deleted (%s)",
                error.strerror or type(error).__name__,
            )

    def _tidy_closed(self) -> None:
        """The newest closed file stays as it is."""
        files = find_logs(self._options.directory).get(self.chain, [])
        kept = self._expire(files)[:-1]
        if self._options.compresses:
            for file in kept[:-1]:
                if not file.packed:
                    compress(file.path)

    def _expire(self, files: Sequence[LogFile]) -> Sequence[LogFile]:
        """Delete the closed files at the start of the chain that are too old, after a signed
        record. A file was closed when the next one began."""
        days = self._options.retention_days
        if days is None:
            return files
        oldest = self._clock() - days * DAY_S
        count = 0
        while count + 1 < len(files) and _read_began_at(files[count + 1]) < oldest:
            count += 1
        if count:
            self._note_retention(files[count - 1])
            for file in files[:count]:
                file.path.unlink()
        return files[count:]

    def _note_retention(self, last: LogFile) -> None:
        """The chain says which record is the last one that was deleted, before it is."""
        end = _End(Tail(0, b"", 0))
        _read_file(last, None, end)
        fields = {
            "time": self._now(),
            "file": last.number,
            "last_seq": end.tail.seq,
            "head": end.tail.digest.hex(),
        }
        self._append([("retention", fields)])
        self.seal()

    def _now(self) -> str:
        return _time(self._clock())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _repair(files: Sequence[LogFile]) -> int:
    """Cut off a line that a killed Router has not finished; returns its bytes."""
    if not files or files[-1].packed:
        return 0
    file = AppendedFile(files[-1].path)
    try:
        return file.cut_torn_line()
    finally:
        file.close()


def _read_file(file: LogFile, state: Seal | None, end: _End) -> int | None:
    """Read one file, newest files first; returns the number of its first record.

    A line that is no record is passed over: `serve-app audit verify` will name it.
    """
    first_seq: int | None = None
    is_last = not end.tail.seq
    for line in file.lines():
        try:
            (seq, kind), (body, digest) = read_head(line), split_line(line)
        except NotALine:
            continue
        first_seq = first_seq or seq
        if state is not None and seq == state.seq:
            end.holds_state = digest.hex() == state.head
        if is_last:
            _read_last(seq, kind, body, digest, file, end)
    return first_seq


def _read_last(seq: int, kind: str, body: bytes, digest: bytes, file: LogFile, end: _End) -> None:
    end.tail = Tail(seq, digest, file.number)
    if kind == "seal":
        with suppress(KeyError, TypeError, orjson.JSONDecodeError):
            end.seals.append(Seal(**orjson.loads(body)["seal"]))
        return
    end.kind = kind
    if kind == "file":
        end.began_at = _parse_time(body)


def _read_began_at(file: LogFile) -> float:
    """When a file was begun, by its first record."""
    for line in file.lines():
        return _parse_time(line)
    return math.inf


def _parse_time(line: bytes) -> float:
    """The time of a record; later than any other if there is none."""
    try:
        return datetime.fromisoformat(orjson.loads(line)["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return math.inf


def _last_line(path: Path) -> bytes:
    last = b""
    with path.open("rb") as file:
        for line in file:
            last = line
    return last
