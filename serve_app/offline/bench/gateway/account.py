"""Where a Router's CPU goes: samples of py-spy, as microseconds of a chunk or of a call.

`python -m serve_app.offline.bench.gateway.account TOKENS [SECONDS]` runs a Router under answers of
this length, with py-spy beside it (native frames), and prints a table in Markdown. py-spy pauses
the process for each sample, so the microseconds are shares of what a run without py-spy costs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from serve_app.offline.bench.clocks import Clocks
from serve_app.offline.bench.gateway.raw_engine import HOST
from serve_app.offline.bench.gateway.spent import read_spent
from serve_app.offline.bench.gateway.targets import (
    ROUTER,
    Target,
    running_engines,
    start_targets,
)
from serve_app.offline.bench.generator import LoadGenerator, run_load_generator
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import render_grid
from serve_app.offline.bench.phase import Phase
from serve_app.offline.bench.targets import MODEL_ID

CLIENTS = 16
STEP_S = 0.004
RATE = 400
"""Samples a second."""
LEAST_US = 1.0
"""Smaller parts are summed."""
_IDLE = ("epoll_wait", "epoll_pwait", "_worker (concurrent")
_FILE = re.compile(r"\((?:.*/)?((?:serve_app|uvicorn|ray|httptools|starlette)/[^:)]+)")


def account(lines: Iterable[str]) -> Counter[str]:
    """The samples of each part: system calls and garbage collection by name, the rest by the file
    of ours, of uvicorn or of Ray that is nearest to the running frame."""
    parts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        if not any(idle in stack for idle in _IDLE):
            parts[_classify(stack.split(";"))] += int(count)
    return parts


def _classify(frames: Sequence[str]) -> str:
    files = [found.group(1) for frame in frames if (found := _FILE.search(frame))]
    nearest = files[-1] if files else "event loop"
    for call in ("write", "writev", "sendmsg", "read", "getpid"):
        if frames[-1].startswith(f"{call} (libc"):
            return f"system call {call}, from {nearest}"
    if "gc_collect_main" in ";".join(frames[-6:]):
        return "garbage collection"
    return nearest


def build_account(parts: Counter[str], cost_us: float, chunks: float, title: str) -> Grid:
    """Shares and microseconds of a call of so many chunks, the largest part first; small parts are
    one row."""
    total = sum(parts.values())

    def row(part: str, samples: int) -> tuple[str, ...]:
        us = cost_us * samples / total
        return part, f"{samples / total:.1%}", f"{us:.1f}", f"{us / chunks:.2f}"

    rows, small = [], 0
    for part, samples in parts.most_common():
        if cost_us * samples / total < LEAST_US:
            small += samples
            continue
        rows.append(row(part, samples))
    rows.append(row("smaller parts", small))
    header = ("part", "share", "us a call", "us a chunk")
    return Grid(f"{title}: {cost_us:.1f} us, {total:,} samples", header, rows)


def main(tokens: int, seconds: float) -> None:
    """Measure without py-spy, then with it, and print the account."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        engines = stack.enter_context(running_engines(STEP_S, scratch))
        (target,) = start_targets([ROUTER], engines, scratch, stack)
        generator = stack.enter_context(run_load_generator())
        phase = Phase(HOST, target.port, MODEL_ID, CLIENTS, True, tokens, 0.5, seconds)
        a_chunk_us, a_call_us = _measure(target, phase, generator)
        parts = _profile(target, phase, generator, scratch / "samples")
    title = f"A call of {tokens} tokens"
    print(render_grid(build_account(parts, a_call_us, a_call_us / a_chunk_us, title)))


def _measure(target: Target, phase: Phase, generator: LoadGenerator) -> tuple[float, float]:
    pids = target.parts["gateway"].pids
    counts, spent = target.read_counts(), read_spent(pids)
    generator.run(phase, lambda: Clocks({}, 0.0))
    cpu_us, after = 1e6 * (read_spent(pids) - spent).cpu_s, target.read_counts()
    return cpu_us / (after.chunks - counts.chunks), cpu_us / (after.calls - counts.calls)


def _profile(target: Target, phase: Phase, generator: LoadGenerator, samples: Path) -> Counter[str]:
    program = str(Path(sys.executable).with_name("py-spy"))
    command = [program, "record", "--native", f"--rate={RATE}"]
    command += [f"--duration={phase.window_s:g}", "--format=raw", f"--output={samples}"]
    command += [f"--pid={target.parts['gateway'].process.pid}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as spy:
        generator.run(phase, lambda: Clocks({}, 0.0))
        spy.wait()
    with samples.open(encoding="utf-8") as lines:
        return account(lines)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 12.0)
