"""What open streams cost in memory: a Router is read while all streams are open and trickle."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from serve_app.offline.bench.bench_errors import RequestsFailed
from serve_app.offline.bench.clocks import Clocks
from serve_app.offline.bench.gateway.raw_engine import HOST
from serve_app.offline.bench.gateway.spent import read_memory_bytes
from serve_app.offline.bench.gateway.targets import MODEL, Target
from serve_app.offline.bench.generator import LoadGenerator
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.phase import Phase

STEP_S = 2.0
"""Between two events of a stream."""
OPEN_S_MAX = 120.0
_POLL_S = 0.1
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


def hold_streams(target: Target, streams: int, generator: LoadGenerator) -> list[Held]:
    """Open streams, read the memory once the engine answers all of them, and let them end.

    Raises:
        RequestsFailed: a stream was not answered in full.
    """
    pids = {name: part.pids for name, part in target.parts.items()}
    idle = {name: read_memory_bytes(ids) for name, ids in pids.items()}
    begun = target.read_counts().calls
    # The streams must outlast the opening of the last of them.
    tokens = int(max(10.0, streams / 100) / STEP_S)
    phase = Phase(HOST, target.port, MODEL, streams, True, tokens, 0.1, 0.1, drain_s=OPEN_S_MAX)
    held: dict[str, int] = {}

    def read_when_open() -> Clocks:
        if not held:
            _wait_open(target, begun + streams)
            held.update({name: read_memory_bytes(ids) for name, ids in pids.items()})
        return Clocks({}, 0.0)

    outcome, _, _ = generator.run(phase, read_when_open)
    if outcome.errors:
        tail = next(iter(target.parts.values())).tail()
        raise RequestsFailed(target.name, phase.label, outcome.errors, tail)
    return [Held(target.name, name, streams, idle[name], held[name]) for name in pids]


def _wait_open(target: Target, calls: int) -> None:
    deadline = time.monotonic() + OPEN_S_MAX
    while target.read_counts().calls < calls and time.monotonic() < deadline:
        time.sleep(_POLL_S)


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
