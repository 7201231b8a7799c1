"""Start commands so that no process of theirs outlives the bench."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from serve_app.offline.bench.bench_errors import ServerEnded

MARKER = "SERVE_APP_BENCH_OWNED"
_GRACE_S = 30.0
_LEFTOVERS_S = 5.0
_OWNER_END_S = _GRACE_S + 60.0
_LOG_TAIL_BYTES = 3000


class Owned:
    """A running command, and its owner's process id."""

    def __init__(self, name: str, owner: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = owner.pid
        self._owner = owner
        self._log = log

    def check(self) -> None:
        """Raises `ServerEnded` if it no longer runs."""
        if self._owner.poll() is not None:
            raise ServerEnded(self.name, self.log_tail())

    def read_log(self) -> str:
        """The whole output."""
        return self._log.read_bytes().decode(errors="replace")

    def log_tail(self) -> str:
        """The end of its output."""
        return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


@contextmanager
def owned(
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    leftovers_s: float = _LEFTOVERS_S,
    cores: Sequence[int] = (),
) -> Iterator[Owned]:
    """Runs a command under an owner of its own and ends all of its processes afterwards.

    `leftovers_s` is what the processes that the command leaves behind get before they are killed.
    All of them run on `cores`, if there are any.
    """
    mark = uuid.uuid4().hex
    waits = [f"--grace-s={_GRACE_S:g}", f"--leftovers-s={leftovers_s:g}"]
    waits += ["--cores", *map(str, cores)] if cores else []
    with log.open("wb") as output:
        owner = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.owner", *waits, "--", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env, MARKER: mark},
            # Ctrl-C in a terminal is for the bench, which then ends its commands in order. A
            # session of its own would keep it away too, but Linux shares the CPU out by session,
            # and the engine's spinning threads would keep the load generator waiting.
            process_group=0,
        )
    try:
        yield Owned(name, owner, log)
    finally:
        _end(owner, mark)


def _end(owner: subprocess.Popen[bytes], mark: str) -> None:
    assert owner.stdin is not None
    owner.stdin.close()
    try:
        owner.wait(_OWNER_END_S)
    except subprocess.TimeoutExpired:
        owner.kill()
        owner.wait()
    end_marked(mark)


def end_marked(mark: str) -> None:
    """Kill the processes that carry the mark, and their children, if the owner itself was
    killed."""
    marked = [process for process in psutil.process_iter() if _carries(process, mark)]
    for process in marked:
        with suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARKER) == mark)
    except (psutil.Error, OSError):
        return False
