"""Checks an audit log: streaming, a file at a time, without the Router's memory of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from serve_app.audit.chain import DIGEST_BYTES, NotALine, link, origin, read_head, split_line
from serve_app.audit.files import SEALS, STATE, LogFile, find_logs
from serve_app.audit.seal import BadSeal, Seal, SealChecker

FINDINGS_MAX = 100
"""Findings of one chain that are kept; a log in ruins need not be described line by line."""


SEAL_KEYS = frozenset({"seq", "kind", "seal", "prev", "hash"})


@dataclass(frozen=True, slots=True)
class LogFinding:
    """Something that no Router has done to its log. `line` is None where a whole file is meant."""

    path: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        where = f"{self.path}" if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.what}"


@dataclass(slots=True)
class ChainReport:
    """What was found in one chain.

    `unsealed` counts the last records, which no seal covers yet. `lost` and `refused` count the
    calls without a record of which the chain tells. `killed` counts the starts after a Router that
    had not ended its chain, `torn_bytes` what those Routers had not finished writing.
    """

    chain: str
    files: int = 0
    records: int = 0
    calls: int = 0
    seals: int = 0
    lost: int = 0
    refused: int = 0
    killed: int = 0
    torn_bytes: int = 0
    deleted_to: int = 0
    unsealed: int = 0
    ended: bool = False
    findings: list[LogFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the chain is as the Routers have written it."""
        return not self.findings


def verify_directory(
    directory: Path, state_directory: Path | None, checker: SealChecker
) -> list[ChainReport]:
    """Check every chain of a directory. Without `state_directory`, a chain whose end is missing in
    the log and in its file of seals alike is not found.

    A log may be verified while Routers write it.

    Raises:
        OSError: a directory cannot be read.
    """
    # The newest seals are read before the log, so that the log is never the older one.
    states = {} if state_directory is None else _read_states(state_directory)
    sealed = {path.name.removesuffix(SEALS): path for path in directory.glob(f"*{SEALS}")}
    read = {chain: path.read_bytes() for chain, path in sealed.items()}
    logs = find_logs(directory)
    reports = []
    for chain in sorted({*states, *sealed, *logs}):
        check = _ChainCheck(chain, directory, checker)
        if state_directory is not None:
            check.read_state(state_directory / f"{chain}{STATE}", states.get(chain))
        check.read_seals(read.get(chain, b""))
        check.read_logs(logs.get(chain, []))
        reports.append(check.end())
    return reports


def _read_states(directory: Path) -> dict[str, bytes]:
    return {
        path.name.removesuffix(STATE): path.read_bytes() for path in directory.glob(f"*{STATE}")
    }


class _ChainCheck:
    """The check of one chain, line after line."""

    def __init__(self, chain: str, directory: Path, checker: SealChecker) -> None:
        self._chain = chain
        self._checker = checker
        self._seals_path = directory / f"{chain}{SEALS}"
        self._first_path = directory / chain
        self._report = ChainReport(chain)
        self._seals: dict[int, tuple[Seal, Path, int]] = {}
        self._seal_max = 0
        self._seen: set[int] = set()
        self._seq = 0
        self._first_seq = 1
        self._digest = self._digest_before = origin(chain)
        self._sealed_seq = 0
        self._last_kind = ""
        self._unexplained: tuple[int, int, str, Path] | None = None
        """The file and record before the first file, and their hash, until a retention record
        explains why they are gone."""
        self._at: tuple[Path, int] = (self._first_path, 0)

    def read_state(self, path: Path, data: bytes | None) -> None:
        """The newest seal, from the directory of the key."""
        if data is None:
            self._find_at(path, None, "the newest seal of the chain is missing")
        else:
            self._take_seal(data, path, None)

    def read_seals(self, data: bytes) -> None:
        """The file of seals, whose last line may be about to be written."""
        newest_elsewhere = self._seal_max
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            self._take_seal(line, self._seals_path, number)
        filed = [seq for seq, seal in self._seals.items() if seal[1] == self._seals_path]
        newest = max(filed, default=0)
        if newest < newest_elsewhere:
            what = f"the seals after record {newest} are missing, up to record {newest_elsewhere}"
            self._find_at(self._seals_path, len(filed) or None, what)

    def read_logs(self, files: Sequence[LogFile]) -> None:
        """The chain itself."""
        expected = 1
        for file in _without_copies(files, self._report.findings):
            if file.number != expected:
                self._miss_files(file, expected)
            expected = file.number + 1
            self._report.files += 1
            self._read_file(file, is_last=file.path == files[-1].path)

    def end(self) -> ChainReport:
        """What the whole chain shows."""
        report = self._report
        if not self._seals and not report.seals:
            self._find_at(self._first_path, None, "the chain has no seal")
        if self._unexplained is not None:
            number, _, _, path = self._unexplained
            self._find_at(path, 1, f"the files before it are missing, up to file {number}")
        self._find_lacking()
        report.unsealed = max(0, self._seq - max(self._sealed_seq + 1, 0))
        report.ended = self._last_kind == "end"
        return report

    def _find_lacking(self) -> None:
        """Every seal that is filed stands in the chain too, right after the record it covers."""
        for seal, path, line in self._seals.values():
            if seal.seq >= self._first_seq and seal.seq not in self._seen:
                what = f"the log lacks record {seal.seq} or its seal; it ends at {self._seq}"
                self._find_at(path, line or None, what)
                return

    def _take_seal(self, data: bytes, path: Path, line: int | None) -> None:
        try:
            seal = self._checker.parse(orjson.loads(data))
        except (BadSeal, orjson.JSONDecodeError) as error:
            why = str(error) if isinstance(error, BadSeal) else "it is no seal"
            self._find_at(path, line, f"a seal does not hold: {why}")
            return
        known = self._seals.get(seal.seq)
        if seal.chain != self._chain:
            self._find_at(path, line, "a seal belongs to another chain")
        elif known is not None and known[0] != seal:
            self._find_at(path, line, "two seals of one record differ")
        else:
            self._seals[seal.seq] = (seal, path, line or 0)
            self._seal_max = max(self._seal_max, seal.seq)

    def _miss_files(self, file: LogFile, expected: int) -> None:
        if self._seq:
            self._find_at(file.path, 1, f"file {expected} of the chain is missing before it")
        else:
            self._unexplained = (file.number - 1, 0, "", file.path)

    def _read_file(self, file: LogFile, *, is_last: bool) -> None:
        number = 0
        try:
            for number, line in enumerate(file.lines(), start=1):
                self._at = (file.path, number)
                if not line.endswith(b"\n") and is_last and not file.packed:
                    self._report.torn_bytes += len(line)
                    return
                self._read_line(file, line, first=number == 1)
        except (OSError, EOFError, zlib.error):
            self._find_at(file.path, number + 1, "the file cannot be read or decompressed")
        if number == 0:
            self._find_at(file.path, None, "the file is empty")

    def _read_line(self, file: LogFile, line: bytes, *, first: bool) -> None:
        try:
            (seq, kind), (body, digest) = read_head(line), split_line(line)
            document = orjson.loads(body)
        except (NotALine, orjson.JSONDecodeError):
            self._find("the line is no record")
            return
        if first:
            self._begin_file(file, kind, seq, document)
        elif kind == "file":
            self._find("a file begins inside another")
        self._follow(seq, body, digest)
        self._note(kind, seq, document)

    def _begin_file(self, file: LogFile, kind: str, seq: int, document: dict[str, Any]) -> None:
        place = (document.get("chain"), document.get("file"))
        if kind != "file" or place != (self._chain, file.number):
            self._find("the file does not begin as this file of this chain")
            return
        if self._unexplained is not None and not self._seq:
            previous = str(document.get("prev"))
            self._unexplained = (file.number - 1, seq - 1, previous, file.path)
            self._first_seq, self._seq = seq, seq - 1
            self._digest = _digest(previous)

    def _follow(self, seq: int, body: bytes, digest: bytes) -> None:
        """Check a line's hash and number, and go on from what the line states."""
        if seq > self._seq + 1:
            self._find(f"records {self._seq + 1} to {seq - 1} are missing before it")
        elif seq <= self._seq:
            self._find(f"record {seq} comes again, or in the wrong place")
        elif link(self._digest, body) != digest:
            self._find("the record is not as it was written, or not where it was written")
        filed = self._seals.get(seq)
        if filed is not None and filed[0].head != digest.hex():
            self._find("the record differs from the one that was sealed")
        self._seq, self._digest, self._digest_before = seq, digest, self._digest

    def _note(self, kind: str, seq: int, document: dict[str, Any]) -> None:
        report = self._report
        report.records += 1
        if kind == "call":
            report.calls += 1
        elif kind == "seal":
            self._check_seal(seq, document)
        elif kind == "gap":
            report.lost += _count(document, "lost")
            report.refused += _count(document, "refused")
        elif kind == "start":
            report.killed += document.get("previous") == "killed"
            report.torn_bytes += _count(document, "torn_bytes")
        elif kind == "retention":
            self._explain(document)
        if kind != "seal":
            self._last_kind = kind

    def _check_seal(self, seq: int, document: dict[str, Any]) -> None:
        """A seal in the chain covers the line before it, and is filed beside the chain."""
        try:
            seal = self._checker.parse(document.get("seal"))
        except BadSeal as error:
            self._find(f"a seal does not hold: {error}")
            return
        if document.keys() - SEAL_KEYS:
            # No signature covers the last seal's own line.
            self._find("the record of a seal holds more than the seal")
        filed = self._seals.get(seal.seq)
        if seal.seq != seq - 1 or seal.chain != self._chain:
            self._find("a seal is not where it was written")
        elif seal.head != self._digest_before.hex():
            self._find("the record before the seal differs from the one that was sealed")
        elif filed is None and seal.seq < self._seal_max:
            self._find("the file of seals lacks this seal")
        elif filed is not None and filed[0] != seal:
            self._find("the seal differs from the one in the file of seals")
        self._report.seals += 1
        self._seen.add(seal.seq)
        self._sealed_seq = seal.seq

    def _explain(self, document: dict[str, Any]) -> None:
        """A retention record says which files were deleted, with the hash of their last record."""
        if self._unexplained is None:
            return
        number, seq, previous, _ = self._unexplained
        told = (document.get("file"), document.get("last_seq"), document.get("head"))
        if told == (number, seq, previous):
            self._unexplained = None
            self._report.deleted_to = seq

    def _find(self, what: str) -> None:
        self._find_at(*self._at, what)

    def _find_at(self, path: Path, line: int | None, what: str) -> None:
        if len(self._report.findings) < FINDINGS_MAX:
            self._report.findings.append(LogFinding(path, line, what))


def _without_copies(files: Sequence[LogFile], findings: list[LogFinding]) -> Iterator[LogFile]:
    """One file for each number: a Router may have been killed between compressing a file and
    deleting it, so two copies are no finding if they are the same."""
    last: LogFile | None = None
    for file in files:
        if last is None or file.number != last.number:
            yield file
        elif not _same_lines(last, file):
            findings.append(LogFinding(file.path, None, f"it differs from {last.path.name}"))
        last = file


def _same_lines(one: LogFile, other: LogFile) -> bool:
    try:
        return all(a == b for a, b in zip(one.lines(), other.lines(), strict=True))
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def _count(document: dict[str, Any], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return bytes(DIGEST_BYTES)
