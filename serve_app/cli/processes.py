"""Find and end processes by their ids, so that no process of a service outlives it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable
from pathlib import Path

import psutil

from serve_app.config.environment import RUN_MARKER

PR_SET_CHILD_SUBREAPER = 36
"""The constant of linux/prctl.h."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies.

    Ray's daemons detach themselves, and engines outlive their replicas. An adopted process stays a
    descendant, which can be listed and ended.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants() -> list[psutil.Process]:
    """Every living process below this one."""
    return psutil.Process().children(recursive=True)


def marked(run_dir: Path) -> list[psutil.Process]:
    """Every process of a service that was started with this run directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_MARKER) == str(run_dir):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != psutil.Process().pid]


def supervisor(process: psutil.Process) -> psutil.Process | None:
    """The living `serve-app up` above a process of a service."""
    try:
        parent = process.parent()
        return parent if parent is not None and "up" in parent.cmdline() else None
    except psutil.Error:
        return None


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; what its parent has not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(processes: Iterable[psutil.Process], *, grace_s: float) -> None:
    """Ask the processes to stop, and kill the processes that still run after `grace_s`."""
    processes = list(processes)
    for process in processes:
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=5)


def _signal(process: psutil.Process, how: str) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        getattr(process, how)()
