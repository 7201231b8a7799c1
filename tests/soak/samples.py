"""What the processes of a running service hold, read again and again."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.soak.verdict import Point

if TYPE_CHECKING:
    from tests.serve.service import Service  # It imports Ray, which the verdict's tests do without.

MIB = 1024**2
REPLICA = re.compile(r"^ray::ServeReplica:llm:(\S+)")
OTHERS = (
    ("HAProxy", re.compile(r"haproxy\b.*-f ")),
    ("Serve's controller", re.compile(r"^ray::ServeController")),
    ("GCS", re.compile(r"gcs_server")),
    ("raylet", re.compile(r"raylet/raylet")),
)
ENGINE = re.compile(r"^VLLM::")


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one time."""

    at_s: float
    part: str
    pid: int
    own_bytes: int
    """Memory that would be free without the process (USS)."""
    resident_bytes: int
    descriptors: int
    threads: int


def name_part(title: str, parent: str = "") -> str:
    """What a process is to the service, by its title and its parent's; empty: not a part."""
    if found := REPLICA.match(title):
        return "Router" if found[1].startswith("Router") else f"{found[1]}, replica"
    if ENGINE.match(title):
        above = REPLICA.match(parent)
        return f"{above[1]}, engine" if above else "engine"
    return next((name for name, pattern in OTHERS if pattern.search(title)), "")


def read_samples(service: Service, at_s: float) -> list[Sample]:
    """One sample of each process that is a part of the service."""
    found = []
    for process in service.processes():
        with suppress(psutil.Error):
            if part := name_part(_title(process), _title(process.parent())):
                found.append(_read(process, part, at_s))
    return found


def _title(process: psutil.Process | None) -> str:
    return " ".join(process.cmdline()) if process else ""


def _read(process: psutil.Process, part: str, at_s: float) -> Sample:
    memory = process.memory_full_info()
    return Sample(
        at_s,
        part,
        process.pid,
        memory.uss,
        memory.rss,
        process.num_fds(),
        process.num_threads(),
    )


@dataclass(frozen=True, slots=True)
class Series:
    """The course of one process."""

    part: str
    pid: int
    samples: tuple[Sample, ...]

    def points(self, field: str) -> list[Point]:
        """The values of a field of the samples."""
        return [(sample.at_s, float(getattr(sample, field))) for sample in self.samples]


def by_process(samples: list[Sample]) -> list[Series]:
    """The course of each process, in the order of their parts."""
    keys = sorted({(sample.part, sample.pid) for sample in samples})
    return [
        Series(part, pid, tuple(each for each in samples if (each.part, each.pid) == (part, pid)))
        for part, pid in keys
    ]
