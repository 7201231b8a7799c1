"""What an earlier service has left, and what only looks like it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from serve_app.cli import leftovers
from serve_app.cli.leftovers import RunDirectory, find_sessions, names_dead_cluster
from serve_app.config.environment import RUN_MARKER, socket_dir
from serve_app.config.reader import process_environment
from serve_app.replica.shared_files import SHARED_MEMORY
from tests.replica.test_shared_files import HOLDER

NAMES = [f"session_2026-11-30_01-15-2{second}_803281_1603" for second in range(5)]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    path = tmp_path / "run"
    path.mkdir()
    return RunDirectory(path)


@pytest.fixture
def sessions(tmp_path: Path) -> list[Path]:
    """Five sessions of Ray, the oldest first."""
    paths = [tmp_path / "ray" / name for name in NAMES]
    for path in paths:
        (path / "logs").mkdir(parents=True)
        (path / "logs" / "raylet.out").touch()
    return paths


@contextmanager
def running(
    code: str, *arguments: str, title: str = sys.executable, **environment: str
) -> Iterator[tuple[psutil.Process, str]]:
    """A process that has written a line, and the line."""
    command = [title, "-c", code, *arguments]
    given = {**process_environment(), **environment}
    with subprocess.Popen(
        command, executable=sys.executable, env=given, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline().decode().strip()
        try:
            yield psutil.Process(child.pid), line
        finally:
            child.kill()


def test_own_sessions_are_removed_but_for_the_last(
    directory: RunDirectory, sessions: list[Path]
) -> None:
    """A session that the directory has not noted is another service's, however old it is."""
    directory.note_sessions(sessions[1:3])
    directory.note_sessions(sessions[2:])
    directory.prune_sessions(kept=2)
    assert [path.exists() for path in sessions] == [True, False, False, True, True]
    directory.prune_sessions(kept=0)
    assert [path.exists() for path in sessions] == [True, False, False, False, False]
    assert (directory.path / "sessions").read_text() == ""


def test_a_session_of_a_living_process_stays(directory: RunDirectory, sessions: list[Path]) -> None:
    """Whoever runs it: a process names it in its command line, as all of Ray's daemons do."""
    code = "import time; print(flush=True); time.sleep(60)"
    directory.note_sessions(sessions)
    socket = f"--raylet_socket_name={sessions[1]}/sockets/raylet"
    with running(code, socket) as (process, _):
        assert find_sessions([process]) == {sessions[1]}
        directory.prune_sessions(kept=0)
    assert [path.exists() for path in sessions] == [False, True, False, False, False]
    directory.prune_sessions(kept=0)
    assert not sessions[1].exists()


def test_agents_of_ray_are_found_by_their_session(
    directory: RunDirectory, sessions: list[Path]
) -> None:
    """They have lost their mark. A reader of a log is no process of Ray."""
    code = "import sys, time; f = open(sys.argv[1]); print(flush=True); time.sleep(60)"
    directory.note_sessions(sessions[:1])
    with ExitStack() as stack:
        agent, _, _ = (
            stack.enter_context(running(code, str(session / "logs" / "raylet.out"), title=title))[0]
            for title, session in (
                ("ray::Agent", sessions[0]),
                ("ray::Agent", sessions[1]),
                ("tail", sessions[0]),
            )
        )
        assert directory.find_processes() == [agent]


def test_only_sessions_are_removed(directory: RunDirectory, tmp_path: Path) -> None:
    """Neither another directory nor what a link leads to, whatever the notes say."""
    precious, link = tmp_path / "precious", tmp_path / NAMES[0]
    precious.mkdir()
    link.symlink_to(precious)
    (directory.path / "sessions").write_text(f"{precious}\n{link}\n../{NAMES[1]}\n")
    directory.prune_sessions(kept=0)
    assert precious.exists()
    assert link.is_symlink()


def test_processes_and_files_of_an_earlier_service_go(directory: RunDirectory) -> None:
    """Those with its mark; another service's stay."""
    sockets = socket_dir(directory.path)
    (sockets / "tmp").mkdir(parents=True)
    with (
        running(HOLDER, **{RUN_MARKER: str(directory.path)}) as (ours, left),
        running(HOLDER, **{RUN_MARKER: "/another"}) as (other, used),
    ):
        assert directory.end_leftovers() == 1
        assert not leftovers.processes.is_alive(ours)
        assert not (SHARED_MEMORY / left).exists()
        assert other.is_running()
        assert (SHARED_MEMORY / used).exists()
    (SHARED_MEMORY / used).unlink()
    assert not sockets.exists()
    assert directory.end_leftovers() == 0


def test_a_dead_cluster_is_told_from_a_living_one(tmp_path: Path) -> None:
    """By whether anything listens at the address that Ray has noted."""
    noted = tmp_path / "ray" / "ray_current_cluster"
    assert not names_dead_cluster(tmp_path)
    noted.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        noted.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        assert not names_dead_cluster(tmp_path)
    assert names_dead_cluster(tmp_path)
    noted.write_text("")
    assert names_dead_cluster(tmp_path)


def test_the_lock_ends_with_its_process(directory: RunDirectory) -> None:
    """After kill -9 the next service can start."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from serve_app.cli.leftovers import RunDirectory\n"
        "held = RunDirectory(Path(sys.argv[1])); print(held.lock(), flush=True); time.sleep(60)"
    )
    with running(code, str(directory.path)) as (holder, said):
        assert said == "True"
        assert not directory.lock()
        holder.kill()
        holder.wait()
        assert directory.lock()
