"""Files that a killed engine has left behind, in shared memory and among temporary files.

vLLM's processes talk through files in /dev/shm and through sockets. A process that is killed
removes none of them, and their names say nothing about their owner. A replica therefore records
which of them its processes use, and the next replica on the node removes the files of replicas that
have ended. A file that any living process still uses is left alone.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import orjson
import psutil

SHARED_MEMORY = Path("/dev/shm")
_MAPPED = re.compile(r" (\d+) +/dev/shm/[^/\n]+$", re.MULTILINE)
"""The number of the file. Its name may be another one: glibc makes a semaphore under a random name,
and renames it once it is mapped."""
_RENDEZVOUS = re.compile(r"vllm_dist_[0-9a-f]{32}")
_SOCKET = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The names of vLLM's sockets."""
_RECORD = re.compile(r"(\d+)-(\d+)\.json")


def find_mapped(pids: Iterable[int]) -> set[Path]:
    """The files in shared memory that these processes use now."""
    mapped = {int(number) for pid in pids for number in _MAPPED.findall(_read_maps(pid))}
    return {path for path in SHARED_MEMORY.iterdir() if _read_number(path) in mapped}


def find_own(pid: int) -> set[Path]:
    """The files that a process and its descendants use, and the file by which they met."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    mapped = find_mapped(member.pid for member in family)
    meetings = {found[0] for path in mapped if (found := _RENDEZVOUS.match(path.name))}
    return mapped | _find_sockets(family) | {Path(tempfile.gettempdir(), name) for name in meetings}


def remove_unused(files: Iterable[Path]) -> set[Path]:
    """Remove those of the files that no living process uses; returns them."""
    present = {path for path in files if path.exists()}
    if not present:
        return set()
    unused = present - find_mapped(psutil.pids()) - _read_bound_sockets()
    for path in unused:
        with suppress(OSError):  # another replica removes the same file, or it is another user's
            path.unlink()
    return unused


class SharedFileRecords:
    """Who uses which files: one record a replica, in a directory of this user on this node."""

    def __init__(self, directory: Path | None = None) -> None:
        default = SHARED_MEMORY / f"serve-app-{os.getuid()}"
        self._directory = default if directory is None else directory

    def write(self, pid: int) -> None:
        """Record the files of a process and its descendants.

        Raises:
            OSError: the record cannot be written.
        """
        files = [str(path) for path in find_own(pid)]
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if self._is_safe():
            self._path(pid).write_bytes(orjson.dumps(files))

    def sweep(self) -> set[Path]:
        """Remove the files of processes that have ended; returns them."""
        removed = set[Path]()
        if not self._is_safe():
            return removed
        for record in sorted(self._directory.iterdir()):
            if not _is_alive(record.name):
                removed |= remove_unused(_read_record(record))
                record.unlink(missing_ok=True)
        return removed

    def _path(self, pid: int) -> Path:
        return self._directory / f"{pid}-{_started_ms(pid)}.json"

    def _is_safe(self) -> bool:
        """Whether nobody else can have put a name of a file there."""
        with suppress(OSError):
            stat = self._directory.lstat()
            is_directory = self._directory.is_dir() and not self._directory.is_symlink()
            return is_directory and stat.st_uid == os.getuid() and not stat.st_mode & 0o022
        return False


def _find_sockets(family: Iterable[psutil.Process]) -> set[Path]:
    """The sockets of vLLM that these processes have bound."""
    bound = set[Path]()
    for process in family:
        with suppress(psutil.Error):
            bound |= {Path(str(each.laddr)) for each in process.net_connections("unix")}
    return {path for path in bound if path.is_absolute() and _SOCKET.fullmatch(path.name)}


def _read_bound_sockets() -> set[Path]:
    """Every path to which a socket of this machine is bound."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    return {Path(words[7]) for line in lines if len(words := line.split(None, 7)) == 8}


def _read_maps(pid: int) -> str:
    with suppress(OSError):  # it has ended, or is another user's
        return Path(f"/proc/{pid}/maps").read_text(errors="replace")
    return ""


def _read_number(path: Path) -> int | None:
    with suppress(OSError):  # it has just been removed
        return path.lstat().st_ino
    return None


def _started_ms(pid: int) -> int:
    return round(psutil.Process(pid).create_time() * 1000)


def _is_alive(record: str) -> bool:
    """Whether the process of a record lives; another process may have its number by now."""
    found = _RECORD.fullmatch(record)
    if found is None:
        return True  # not ours to judge
    with suppress(psutil.Error):
        process = psutil.Process(int(found[1]))
        # The system's clock may have been set since; a number is not used again so soon.
        same = abs(_started_ms(process.pid) - int(found[2])) < 2000
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False


def _read_record(record: Path) -> list[Path]:
    try:
        return [Path(name) for name in orjson.loads(record.read_bytes())]
    except (OSError, ValueError, TypeError):
        return []
