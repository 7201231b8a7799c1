"""Finding and ending real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from serve_app.cli import processes
from serve_app.cli.main import app
from serve_app.config.environment import RUN_MARKER
from serve_app.config.reader import process_environment

WILLING = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WILLING

Spawn = Callable[..., psutil.Process]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts children that say when they are ready; none outlives its test."""
    children: list[subprocess.Popen[bytes]] = []

    def spawn(code: str, **environment: str) -> psutil.Process:
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**process_environment(), **environment},
            stdout=subprocess.PIPE,
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return psutil.Process(child.pid)

    yield spawn
    for child in children:
        with child:
            child.kill()


@pytest.mark.parametrize(
    ("code", "ended_by"), [(WILLING, signal.SIGTERM), (STUBBORN, signal.SIGKILL)]
)
def test_end_asks_then_kills(spawn: Spawn, code: str, ended_by: signal.Signals) -> None:
    """Who stops when asked is not killed; who does not is, after the time of grace."""
    child = spawn(code)
    started = time.monotonic()
    processes.end([child], grace_s=0.3 if ended_by is signal.SIGKILL else 10)
    assert child.wait(timeout=1) == -ended_by
    assert time.monotonic() - started < 5
    assert not psutil.pid_exists(child.pid)


def test_end_takes_processes_that_are_gone(spawn: Spawn) -> None:
    """A process that ended in between is no error."""
    child = spawn(WILLING)
    processes.end([child], grace_s=10)
    processes.end([child], grace_s=0.1)
    assert not child.is_running()


def test_marked_finds_a_run_by_its_environment(spawn: Spawn, tmp_path: Path) -> None:
    """A service's processes are known by their run directory, whoever their parent is."""
    ours = spawn(WILLING, **{RUN_MARKER: str(tmp_path / "a")})
    spawn(WILLING, **{RUN_MARKER: str(tmp_path / "b")})
    spawn(WILLING)
    assert [process.pid for process in processes.marked(tmp_path / "a")] == [ours.pid]


def test_descendants_lists_children(spawn: Spawn) -> None:
    """Every process below this one is listed."""
    assert spawn(WILLING) in processes.descendants()


def test_down_without_a_service_says_so(tmp_path: Path) -> None:
    """Nothing to stop is an answer, not an error."""
    result = CliRunner().invoke(app, ["down"], env={"SERVE_APP_RUN": str(tmp_path)})
    assert (result.exit_code, result.output) == (0, "No service is running.\n")


def test_down_ends_what_was_left(spawn: Spawn, tmp_path: Path) -> None:
    """Processes whose `serve-app up` has died are found and ended."""
    child = spawn(WILLING, **{RUN_MARKER: str(tmp_path)})
    result = CliRunner().invoke(app, ["down"], env={"SERVE_APP_RUN": str(tmp_path)})
    assert (result.exit_code, result.output) == (0, "Stopped.\n")
    assert not child.is_running()
