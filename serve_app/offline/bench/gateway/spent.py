"""What processes spend, from /proc: CPU in nanoseconds, reads and writes, memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Spent:
    """The sums of some processes; `reads` and `writes` are system calls of files and sockets.

    A program that calls `recv` and `send` is not counted there: Linux counts `read` and `write`.
    """

    cpu_s: float = 0.0
    reads: int = 0
    writes: int = 0

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.cpu_s - other.cpu_s, self.reads - other.reads, self.writes - other.writes)


def read_spent(pids: Iterable[int]) -> Spent:
    """What these processes have spent so far."""
    cpu_s, reads, writes = 0.0, 0, 0
    for pid in pids:
        cpu_s += read_cpu_s(pid)
        with suppress(*_GONE):
            numbers = dict(
                line.split(": ") for line in (_PROC / str(pid) / "io").read_text().splitlines()
            )
            reads, writes = reads + int(numbers["syscr"]), writes + int(numbers["syscw"])
    return Spent(cpu_s, reads, writes)


def read_cpu_s(pid: int) -> float:
    """The CPU seconds of a process, from the scheduler's own clock where the kernel shows it.

    The clock in `/proc/PID/stat` has steps of ten milliseconds. Threads that have ended count there
    only.
    """
    total_ns = 0
    with suppress(*_GONE):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(*_GONE):
                total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def family(pid: int) -> list[int]:
    """A process and all of its descendants."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def read_memory_bytes(pids: Iterable[int]) -> int:
    """The resident memory of these processes."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in pids)
