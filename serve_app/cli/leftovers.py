"""What an earlier service of this run directory has left: processes, files, sessions of Ray.

Only what is known to be its own is touched: processes by the mark in their environment, files in
shared memory that these processes use, sessions that this run directory has noted.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from serve_app.cli import processes
from serve_app.config.environment import socket_dir
from serve_app.replica.shared_files import SharedFileRecords, find_mapped, remove_unused

SESSIONS_KEPT = 2
"""Sessions of Ray whose logs stay, beside the session that starts."""
SESSIONS_FILE = "sessions"
LOCK_FILE = "lock"
GRACE_S = 3.0
ENDING = b"ending"
ENDING_S_MAX = 20.0
ROUNDS_MAX = 5
"""What ends last may just have started something new."""
POLL_S = 0.1
CONNECT_S = 2.0
_SESSION = re.compile(r"(/[^\s=]*/session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+)(?=[/\s]|$)")


class RunDirectory:
    """The directory of one service on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def lock(self, *, is_ending: bool = False) -> bool:
        """Become the one living `serve-app up` of the directory; False if another one is.

        The lock ends with this process. `is_ending`: it will end soon, and is worth waiting for.

        Raises:
            OSError: the directory cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self.path / LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.write(file, ENDING if is_ending else b"")
        self._lock = file
        return True

    def lock_when_ended(self, wait_s: float = ENDING_S_MAX) -> bool:
        """The same, after the end of an earlier service that is ending now."""
        deadline = time.monotonic() + wait_s
        while not (locked := self.lock()) and time.monotonic() < deadline:
            if (self.path / LOCK_FILE).read_bytes() != ENDING:
                return False
            time.sleep(POLL_S)
        return locked

    def release(self) -> None:
        """Let another `serve-app up` start."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def end_leftovers(self) -> int:
        """End the processes of an earlier service, and remove its files; returns their number."""
        ended = 0
        for _ in range(ROUNDS_MAX):
            if not (left := self.find_processes()):
                break
            end_with_files(left)
            ended += len(left)
        shutil.rmtree(socket_dir(self.path), ignore_errors=True)
        SharedFileRecords().sweep()
        return ended

    def find_processes(self) -> list[psutil.Process]:
        """The living processes of the directory's service.

        Ray's agents write their titles over their environment, and the mark with it. They are known
        by the files that they have open in a session of the directory.
        """
        found = processes.marked(self.path)
        sessions = set(self._read_sessions())
        agents = (each for each in psutil.process_iter() if _works_in(each, sessions))
        return [*found, *(each for each in agents if each not in found)] if sessions else found

    def note_sessions(self, found: Iterable[Path]) -> None:
        """Note that these sessions of Ray are the directory's own."""
        known = self._read_sessions()
        new = sorted(set(found) - set(known))
        if new:
            with (self.path / SESSIONS_FILE).open("a", encoding="utf-8") as file:
                file.writelines(f"{path}\n" for path in new)

    def prune_sessions(self, kept: int = SESSIONS_KEPT) -> None:
        """Remove its own oldest sessions, of which no process speaks."""
        known = self._read_sessions()
        old = known[: max(0, len(known) - kept)]
        spoken_of = find_sessions(psutil.process_iter()) if old else set()
        for path in old:
            if path not in spoken_of and _is_session(path):
                shutil.rmtree(path, ignore_errors=True)
        left = [path for path in known if path.exists()]
        if left != known:
            lines = "".join(f"{path}\n" for path in left)
            (self.path / SESSIONS_FILE).write_text(lines, encoding="utf-8")

    def _read_sessions(self) -> list[Path]:
        try:
            lines = (self.path / SESSIONS_FILE).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [Path(line) for line in lines if _SESSION.fullmatch(line)]


def end_with_files(left: list[psutil.Process]) -> None:
    """End processes, and remove the files in shared memory that only they used."""
    files = find_mapped(process.pid for process in left)
    processes.end(left, grace_s=GRACE_S)
    remove_unused(files)


def find_sessions(found: Iterable[psutil.Process]) -> set[Path]:
    """The sessions of Ray that the command lines of these processes name."""
    sessions = set[Path]()
    for process in found:
        try:
            words = "\n".join(process.cmdline())
        except psutil.Error:
            continue
        sessions.update(Path(match[1]) for match in _SESSION.finditer(words))
    return sessions


def names_dead_cluster(ray_tmpdir: Path) -> bool:
    """Whether Ray has noted a cluster that has died.

    `serve run` would try to join it for half a minute, and then fail.
    """
    try:
        noted = (ray_tmpdir / "ray" / "ray_current_cluster").read_text(encoding="utf-8")
    except OSError:
        return False
    host, _, port = noted.strip().rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return False
    except (OSError, ValueError):
        return True


def _works_in(process: psutil.Process, sessions: set[Path]) -> bool:
    """Whether it is a process of Ray that has a file open in one of the sessions."""
    try:
        if not process.cmdline()[0].startswith("ray::"):
            return False
        files = process.open_files()
    except (psutil.Error, IndexError):
        return False
    return any(not sessions.isdisjoint(Path(file.path).parents) for file in files)


def _is_session(path: Path) -> bool:
    """Whether this user's session is there, and no link to somewhere else."""
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
