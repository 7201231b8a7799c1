"""Every way in which `serve-app up` may end, with processes in the place of Ray's.

tests/serve/test_orphans.py does the same with real Ray and real engines, and takes minutes.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serve_app.cli import processes
from serve_app.cli.leftovers import RunDirectory
from serve_app.config.environment import socket_dir
from serve_app.config.reader import RUN_DIR_VARIABLE, process_environment
from serve_app.replica.shared_files import SHARED_MEMORY
from tests.serve.service import free_port, wait_for

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "configs" / "local.yaml"
pytestmark = pytest.mark.slow

READY_S = 60.0
GONE_S = 10.0
PARTS = 5
"""`serve run`, two daemons, an agent and an engine."""


def obey_signals() -> None:
    """Undo what `nohup` and a shell's `&` do to the tests, because `up` would inherit it."""
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)


class Up:
    """A `serve-app up` whose `serve` and `ray` are those of `fake_serve.py`."""

    def __init__(self, directory: Path, port: int) -> None:
        self.run_dir = directory / "run"
        self.sessions = directory / "ray"
        self._port = port
        self._python = directory / "bin" / "python"
        self._log = directory / "log"
        self._make_tools()
        self.process = self.start()

    def _make_tools(self) -> None:
        self._python.parent.mkdir()
        self._python.symlink_to(sys.executable)
        for name in ("serve", "ray"):
            tool = self._python.with_name(name)
            tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.cli.fake_serve "$@"\n')
            tool.chmod(0o755)

    def start(self) -> psutil.Popen:
        """Start it in the process group of a terminal of its own, with a new log."""
        for path in (self._log, self._noted):
            path.unlink(missing_ok=True)
        environment = {
            **process_environment(),
            RUN_DIR_VARIABLE: str(self.run_dir),
            "RAY_TMPDIR": str(self.sessions.parent),
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        }
        command = [str(self._python), "-m", "serve_app.cli.main", "up", str(LOCAL)]
        with self._log.open("wb") as log:
            return psutil.Popen(
                [*command, "--port", str(self._port)],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=obey_signals,
            )

    def wait_ready(self) -> None:
        wait_for(lambda: "Ready at" in self._read_log(), timeout_s=READY_S, what="it is ready")
        wait_for(
            lambda: len(self.parts()) == PARTS and self._noted.exists(),
            timeout_s=READY_S,
            what="all parts run",
        )
        assert urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ready").status == 200

    def _read_log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def held(self) -> Path:
        """The file in shared memory that the engine uses."""
        return SHARED_MEMORY / self._noted.read_text()

    @property
    def _noted(self) -> Path:
        return self.run_dir / "held"

    def parts(self) -> list[psutil.Process]:
        return RunDirectory(self.run_dir).find_processes()

    def find(self, name: str) -> psutil.Process:
        [found] = [each for each in self.parts() if name in " ".join(each.cmdline())]
        return found

    def wait_gone(self) -> None:
        """Nothing runs, and nothing is left but noted sessions."""
        held = self.held
        wait_for(lambda: not self.parts(), timeout_s=GONE_S, what="all parts are gone")
        wait_for(lambda: not processes.is_alive(self.process), timeout_s=GONE_S, what="up is gone")
        directory = RunDirectory(self.run_dir)
        assert directory.lock_when_ended()
        directory.release()
        assert not held.exists()
        assert not socket_dir(self.run_dir).exists()

    def close(self) -> None:
        for process in [self.process, *self.parts()]:
            if processes.is_alive(process):
                process.kill()
        self.process.wait()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """It has been started, and may not be ready yet."""
    started = Up(tmp_path, free_port())
    yield started
    started.close()


ENDS: dict[str, tuple[Callable[[Up], object], int]] = {
    "hangup": (lambda up: os.killpg(up.process.pid, signal.SIGHUP), 0),
    "kill -9 of serve run": (lambda up: up.find("fake_serve run").kill(), 1),
    "kill -9 of the raylet": (lambda up: up.find("/raylet").kill(), 1),
}


@pytest.mark.parametrize("end", sorted(ENDS))
def test_nothing_is_left(up: Up, end: str) -> None:
    """Neither a process nor a file, however it ends."""
    kill, code = ENDS[end]
    up.wait_ready()
    kill(up)
    up.wait_gone()
    assert up.process.wait() == code


def test_the_next_one_starts_after_kill_9(up: Up) -> None:
    """At once, while the keeper still ends what is left."""
    up.wait_ready()
    up.process.kill()
    up.process.wait()
    held = up.held
    up.process = up.start()
    up.wait_ready()
    assert up.held != held
    assert not held.exists()
    up.process.terminate()
    up.wait_gone()
    assert len(list(up.sessions.iterdir())) == 2


def test_the_second_ctrl_c_hurries(up: Up) -> None:
    """`serve run` hangs in its end, and is not waited for."""
    up.wait_ready()
    up.find("fake_serve run").suspend()
    os.killpg(up.process.pid, signal.SIGINT)
    time.sleep(0.5)  # one signal may stand for two that come at once
    os.killpg(up.process.pid, signal.SIGINT)
    up.wait_gone()
    assert up.process.wait() == 0


def test_ctrl_c_at_any_moment_of_the_start(up: Up) -> None:
    """Twice, as soon as the keeper runs, when `serve run` has just begun or not even that."""
    wait_for(lambda: up.process.children(), timeout_s=READY_S, what="it has begun")
    for _ in range(2):
        os.killpg(up.process.pid, signal.SIGINT)
    up.process.wait(timeout=30)
    assert up.parts() == []
    assert not socket_dir(up.run_dir).exists()
