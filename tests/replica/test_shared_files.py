"""Files in shared memory whose processes have been killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from serve_app.replica.shared_files import (
    SHARED_MEMORY,
    SharedFileRecords,
    find_mapped,
    find_own,
    remove_unused,
)

HOLDER = """
import subprocess, sys, time
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None
held = shared_memory.SharedMemory(create=True, size=64)
print(held.name, flush=True)
time.sleep(60)
"""


BINDER = """
import socket, sys, time
bound = [socket.socket(socket.AF_UNIX) for _ in sys.argv[1:]]
for each, path in zip(bound, sys.argv[1:]):
    each.bind(path)
print(flush=True)
time.sleep(60)
"""
SOCKETS = ("00786c31-845b-4ea8-85c8-28d8739360aa", "03a46213-8777-47a5-ba03-dd3574c5f6d8")


LOCKER = """
import multiprocessing, time
from multiprocessing import resource_tracker
resource_tracker.register = lambda *_: None
held = multiprocessing.get_context("spawn").Lock()
print("sem." + held._semlock.name[1:], flush=True)
time.sleep(60)
"""
"""As vLLM's executor, whose workers share a lock."""


@contextmanager
def holder(code: str = HOLDER) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that uses a file in shared memory, and removes nothing when it is killed."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        path = SHARED_MEMORY / process.stdout.readline().decode().strip()
        try:
            yield process, path
        finally:
            process.kill()
            process.wait()
            path.unlink(missing_ok=True)


@pytest.fixture
def records(tmp_path: Path) -> SharedFileRecords:
    return SharedFileRecords(tmp_path / "records")


def test_the_files_of_a_process_are_found() -> None:
    """By what it maps, and under its parent's id too."""
    with holder() as (process, path):
        assert path in find_mapped([process.pid])
        assert path in find_own(process.pid)
    assert find_mapped([process.pid]) == set()


def test_the_lock_of_a_dead_engine_is_removed(records: SharedFileRecords) -> None:
    """The file of a semaphore has another name in the maps of its processes."""
    with holder(LOCKER) as (process, path):
        assert path in find_mapped([process.pid])
        records.write(process.pid)
        assert remove_unused([path]) == set()
        process.kill()
        process.wait()
        assert records.sweep() == {path}
        assert not path.exists()


def test_files_of_the_dead_are_removed_and_no_others(records: SharedFileRecords) -> None:
    """A file of a living process stays, and so does a file that nobody has recorded."""
    stranger = SharedMemory(create=True, size=64)
    try:
        with holder() as (dead, left), holder() as (alive, used):
            records.write(dead.pid)
            records.write(alive.pid)
            assert records.sweep() == set()
            dead.kill()
            dead.wait()
            assert left.exists()
            assert records.sweep() == {left}
            assert not left.exists()
            assert used.exists()
            assert (SHARED_MEMORY / stranger.name).exists()
            assert records.sweep() == set()
    finally:
        stranger.close()
        stranger.unlink()


def test_a_file_that_another_process_uses_stays(records: SharedFileRecords) -> None:
    """Whoever has created it, and whoever has recorded it."""
    with holder() as (process, path):
        records.write(process.pid)
        shared = SharedMemory(name=path.name)
        try:
            process.kill()
            process.wait()
            assert records.sweep() == set()
            assert remove_unused([path]) == set()
            assert path.exists()
        finally:
            shared.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose sockets have paths of less than 108 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def test_sockets_of_the_dead_are_removed(short_path: Path, records: SharedFileRecords) -> None:
    """Those that vLLM names; a socket that another process has bound anew stays."""
    names = [short_path / name for name in (*SOCKETS, "other.sock")]
    with subprocess.Popen(
        [sys.executable, "-c", BINDER, *map(str, names)], stdout=subprocess.PIPE
    ) as binder:
        assert binder.stdout is not None
        binder.stdout.readline()
        records.write(binder.pid)
        assert records.sweep() == set()
        binder.kill()
    names[1].unlink()
    with socket.socket(socket.AF_UNIX) as anew:
        anew.bind(str(names[1]))
        assert records.sweep() == {names[0]}
    assert [path.exists() for path in names] == [False, True, True]


def test_a_directory_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    """A record in it might name any file of this user."""
    directory, precious = tmp_path / "records", tmp_path / "precious"
    precious.touch()
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    (directory / "1-1.json").write_text(f'["{precious}"]')
    assert SharedFileRecords(directory).sweep() == set()
    assert precious.exists()


def test_a_damaged_record_is_passed_over(tmp_path: Path, records: SharedFileRecords) -> None:
    """It is removed; a file that is no record stays."""
    directory = tmp_path / "records"
    directory.mkdir(mode=0o700)
    (directory / "999999999-1.json").write_text("{")
    (directory / "note").touch()
    assert records.sweep() == set()
    assert [path.name for path in directory.iterdir()] == ["note"]
