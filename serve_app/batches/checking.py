"""Checks a whole file before any of its lines is answered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from serve_app.batches.batch import LineFault, Shard
from serve_app.batches.lines import LineRefused, parse_line

FAULTS_MAX = 100
"""The faults that a batch names; further faults of the file are not looked for."""
SHARD_BYTES = 1024 * 1024

CheckBody = Callable[[bytes], LineFault | None]
"""What is wrong with the body of a line; the fault names no line yet."""


class FileCheck:
    """The check of one file, a slice of time after another."""

    def __init__(
        self,
        lines: Iterator[bytes],
        endpoint: str,
        check: CheckBody,
        *,
        lines_max: int,
        line_bytes_max: int,
        shard_lines: int,
    ) -> None:
        self._lines = lines
        self._endpoint = endpoint
        self._check = check
        self._lines_max = lines_max
        self._line_bytes_max = line_bytes_max
        self._seen: dict[bytes, int] = {}
        self._shards = _Shards(shard_lines)
        self._number = 0
        self._calls = 0
        self.faults: list[LineFault] = []

    @property
    def shards(self) -> list[Shard]:
        """The shards of the file, once it has been checked to its end."""
        return self._shards.close()

    def work(self, seconds: float) -> bool:
        """Check for about so long; returns whether the file has been checked."""
        until = time.perf_counter() + seconds
        while len(self.faults) < FAULTS_MAX:
            raw = next(self._lines, None)
            if raw is None:
                self._end()
                return True
            self._take(raw)
            if self._calls > self._lines_max:
                return True
            if time.perf_counter() >= until:
                return False
        return True

    def _take(self, raw: bytes) -> None:
        self._number += 1
        holds_call = bool(raw.strip())
        self._shards.add(self._number, len(raw), holds_call=holds_call)
        if holds_call:
            self._calls += 1
            try:
                self._check_line(raw)
            except LineRefused as refused:
                self.faults.append(refused.fault)

    def _check_line(self, raw: bytes) -> None:
        number = self._number
        if self._calls == self._lines_max + 1:
            message = f"The file has more than {self._lines_max} lines. Split it."
            raise LineRefused(LineFault("too_many_lines", message, None, number))
        if len(raw) > self._line_bytes_max:
            message = f"The line is longer than {self._line_bytes_max} bytes."
            raise LineRefused(LineFault("line_too_long", message, None, number))
        line = parse_line(raw, number, self._endpoint)
        digest = hashlib.blake2b(line.custom_id.encode("utf-8", "replace"), digest_size=16).digest()
        first = self._seen.setdefault(digest, number)
        if first != number:
            message = f"The `custom_id` stands in line {first} already."
            raise LineRefused(LineFault("duplicate_custom_id", message, "custom_id", number))
        fault = self._check(line.body)
        if fault is not None:
            param = f"body.{fault.param}" if fault.param else "body"
            raise LineRefused(replace(fault, param=param, line=number))

    def _end(self) -> None:
        if not self._calls:
            self.faults.append(LineFault("empty_file", "The file has no lines."))


class _Shards:
    """Cuts a file into shards of some lines and about a megabyte."""

    def __init__(self, lines_max: int) -> None:
        self._lines_max = lines_max
        self._done: list[Shard] = []
        self._first = 1
        self._lines = 0
        self._start = 0
        self._end = 0

    def add(self, number: int, size_bytes: int, *, holds_call: bool) -> None:
        self._end += size_bytes
        self._lines += holds_call
        if self._lines >= self._lines_max or self._end - self._start >= SHARD_BYTES:
            self._cut(number + 1)

    def close(self) -> list[Shard]:
        if self._lines:
            self._cut(self._first + 1)
        return self._done

    def _cut(self, following: int) -> None:
        if self._lines:
            size_bytes = self._end - self._start
            shard = Shard(len(self._done), self._first, self._lines, self._start, size_bytes)
            self._done.append(shard)
        self._first, self._start, self._lines = following, self._end, 0
