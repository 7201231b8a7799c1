"""What ends a service whose `serve-app up` was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.cli import processes
from serve_app.cli.keeper import start_keeper
from serve_app.cli.leftovers import LOCK_FILE, RunDirectory
from serve_app.config.environment import RUN_MARKER
from serve_app.config.reader import process_environment
from tests.cli.test_leftovers import running

ROOT = Path(__file__).parents[2]
WAIT = "import time; print('ready', flush=True); time.sleep(60)"
UP = """
import sys, time
from pathlib import Path
from serve_app.cli.keeper import start_keeper
from serve_app.cli.leftovers import RunDirectory
from serve_app.config.reader import process_environment
directory = RunDirectory(Path(sys.argv[1]))
assert directory.lock()
keeper = start_keeper(directory, process_environment())
print(keeper.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def given() -> dict[str, str]:
    """The environment in which a process finds this checkout."""
    return {**process_environment(), "PYTHONPATH": str(ROOT)}


def test_what_is_left_ends_with_its_supervisor(tmp_path: Path, given: dict[str, str]) -> None:
    """After kill -9 of `serve-app up`, and the next one can start."""
    with (
        running(WAIT, **{RUN_MARKER: str(tmp_path)}) as (left, _),
        running(UP, str(tmp_path), PYTHONPATH=given["PYTHONPATH"]) as (up, _),
    ):
        up.kill()
        left.wait(timeout=30)
        assert RunDirectory(tmp_path).lock_when_ended()


def test_a_new_service_is_left_alone(tmp_path: Path, given: dict[str, str]) -> None:
    """It holds the lock when the keeper of the old one looks."""
    with running(WAIT, **{RUN_MARKER: str(tmp_path)}) as (new, _):
        directory = RunDirectory(tmp_path)
        assert directory.lock()
        with start_keeper(directory, given) as keeper:
            pass  # its input ends
        assert keeper.returncode == 0
        assert processes.is_alive(new)


def test_only_a_service_that_ends_is_waited_for(tmp_path: Path) -> None:
    """A running one is told of at once."""
    running_one, ending = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    assert running_one.lock()
    assert not RunDirectory(tmp_path / "a").lock_when_ended()
    assert ending.lock(is_ending=True)
    assert (tmp_path / "b" / LOCK_FILE).read_bytes() == b"ending"
    assert not RunDirectory(tmp_path / "b").lock_when_ended(wait_s=0.3)
    ending.release()
    assert RunDirectory(tmp_path / "b").lock_when_ended()
