"""What open streams cost in memory: a Router is read while all streams are open and trickle."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import dataclass

from serve_app.offline.bench.bench_errors import ServerEnded
from serve_app.offline.bench.gateway.spent import read_memory_bytes
from serve_app.offline.bench.gateway.targets import Target
from serve_app.offline.bench.grids import Grid

STEP_S = 5.0
"""Between two events of a stream."""
OPENED_PER_S = 200.0
"""Thousands of streams that begin in one moment would measure queues and timeouts."""
_SPARE_FILES = 200
_FILES_A_STREAM = 2
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Held:
    """The memory of one process of a target before streams were opened, and while all were open."""

    target: str
    part: str
    streams: int
    idle_bytes: int
    held_bytes: int


def raise_file_limit() -> int:
    """Let this process and its children open as many files as they may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def streams_max(files: int) -> int:
    """The most streams that a gateway can hold, each with a connection on either side."""
    return (files - _SPARE_FILES) // _FILES_A_STREAM


def hold_streams(target: Target, streams: int) -> list[Held]:
    """Open streams, read the memory once all are open, and close them.

    Raises:
        ServerEnded: a stream was refused or broken.
    """
    pids = {name: part.pids for name, part in target.parts.items()}
    idle = {name: read_memory_bytes(ids) for name, ids in pids.items()}
    module = f"{__package__}.holder"
    command = [sys.executable, "-m", module, str(target.port), str(streams), f"{OPENED_PER_S:g}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        opened = holder.stdout.readline()
        held = {name: read_memory_bytes(ids) for name, ids in pids.items()}
        _, errors = holder.communicate()
    if not opened or holder.returncode:
        tail = next(iter(target.parts.values())).tail()
        raise ServerEnded(f"a stream of {target.name}", f"{errors.decode()[-500:]}\n{tail}")
    return [Held(target.name, name, streams, idle[name], held[name]) for name in pids]


def build_memory_grid(held: list[Held]) -> list[Grid]:
    """A row for each process and number of streams."""
    rows = [
        (
            f"{one.target}: {one.part}",
            f"{one.streams:,}",
            f"{one.idle_bytes / _MIB:.0f}",
            f"{one.held_bytes / _MIB:.0f}",
            f"{(one.held_bytes - one.idle_bytes) / one.streams / 1024:.1f}",
        )
        for one in held
    ]
    header = ("process", "open streams", "MiB before", "MiB with them", "KiB a stream")
    title = f"Resident memory; an event a stream every {STEP_S:g} s"
    return [Grid(title, header, rows)] if rows else []
