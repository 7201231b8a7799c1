"""Nothing that the bench starts outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serve_app.offline.bench.bench_errors import ServerEnded
from serve_app.offline.bench.ownership import owned

# Leaves a daemon behind: a session of its own, its parent gone, deaf to SIGTERM.
DETACH = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def wait_for_pid(path: Path) -> psutil.Process:
    """The process that has written its id into the file."""
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "it never started"
        time.sleep(0.01)
    return psutil.Process(int(path.read_text()))


def wait_for_end(process: psutil.Process) -> bool:
    """Whether the process ends within some seconds."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_detached_process_ends_too(tmp_path: Path) -> None:
    """What leaves its session and its parent is still found and killed."""
    command = [sys.executable, "-c", DETACH, str(tmp_path / "pid")]
    with owned("server", command, {}, tmp_path / "log", leftovers_s=0.2):
        daemon = wait_for_pid(tmp_path / "pid")
    assert wait_for_end(daemon)


def test_everything_ends_when_the_bench_raises(tmp_path: Path) -> None:
    """An error inside the block ends the processes and passes through."""
    command = [sys.executable, "-c", DETACH, str(tmp_path / "pid")]
    daemon = None
    try:
        with owned("server", command, {}, tmp_path / "log", leftovers_s=0.2):
            daemon = wait_for_pid(tmp_path / "pid")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert daemon is not None
        assert wait_for_end(daemon)


def test_everything_ends_when_the_owner_is_killed(tmp_path: Path) -> None:
    """Without its owner, a server is found by the mark in its environment."""
    command = [sys.executable, "-c", DETACH, str(tmp_path / "pid")]
    with owned("server", command, {}, tmp_path / "log", leftovers_s=0.2) as server:
        daemon = wait_for_pid(tmp_path / "pid")
        os.kill(server.pid, signal.SIGKILL)
    assert wait_for_end(daemon)


def test_everything_ends_when_the_bench_is_killed(tmp_path: Path) -> None:
    """The owner sees its input close and does what the bench no longer can."""
    inner = [sys.executable, "-c", DETACH, str(tmp_path / "pid")]
    code = (
        "import sys, time; from pathlib import Path\n"
        "from serve_app.offline.bench.ownership import owned\n"
        f"with owned('server', {inner!r}, {{}}, Path({str(tmp_path / 'log')!r}), 0.2):\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as bench:
        daemon = wait_for_pid(tmp_path / "pid")
        bench.kill()
    assert wait_for_end(daemon)


def test_a_server_that_ends_is_noticed(tmp_path: Path) -> None:
    """The error has the end of the server's log in it."""
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    with owned("server", command, {}, tmp_path / "log") as server:
        owner = psutil.Process(server.pid)
        assert wait_for_end(owner)
        with pytest.raises(ServerEnded, match="no such model"):
            server.check()
