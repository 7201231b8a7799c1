"""The bench's end of the load generator's process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import orjson

from serve_app.offline.bench.bench_errors import GeneratorFailed
from serve_app.offline.bench.clocks import Clocks
from serve_app.offline.bench.loadgen import BEGUN, ENDED
from serve_app.offline.bench.phase import Outcome, Phase


class LoadGenerator:
    """A running load generator."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def run(
        self, phase: Phase, read_clocks: Callable[[], Clocks]
    ) -> tuple[Outcome, Clocks, Clocks]:
        """Drives one phase and reads the clocks at both edges of its window."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(asdict(phase)) + b"\n")
        self._process.stdin.flush()
        self._expect(BEGUN)
        before = read_clocks()
        self._expect(ENDED)
        after = read_clocks()
        return Outcome(**self._hear()), before, after

    def _expect(self, word: str) -> None:
        heard = self._hear()
        if heard != word:
            raise GeneratorFailed(f"expected {word!r}, heard {str(heard)[:300]!r}")

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise GeneratorFailed(f"it ended with code {self._process.wait()}")
        return orjson.loads(line)


@contextmanager
def run_load_generator(cores: Sequence[int] = ()) -> Iterator[LoadGenerator]:
    """Runs a load generator, on these cores if there are any.

    It ends when its input does, even if the bench is killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.loadgen"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    with process:
        try:
            yield LoadGenerator(process)
        finally:
            process.kill()
