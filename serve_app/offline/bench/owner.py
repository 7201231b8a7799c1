"""Own a command and all of its descendants.

Run as `python -m serve_app.offline.bench.owner -- COMMAND`.

Servers start processes that start processes, and some of them detach. The owner is their subreaper,
so a process that loses its parent becomes a child of the owner. The owner ends all of them when the
command ends, when the owner gets SIGTERM, or when its input closes, which happens whenever the
bench dies.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from time import monotonic, sleep

import psutil

# From linux/prctl.h.
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.2


def main() -> int:
    """Run the command, and return its exit code, or 0 after a signal to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grace-s", type=float, required=True, help="for the command to end")
    parser.add_argument(
        "--leftovers-s", type=float, required=True, help="for processes that it leaves"
    )
    parser.add_argument("--cores", type=int, nargs="*", help="for the command; all without it")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    _become_subreaper()
    if args.cores:
        os.sched_setaffinity(0, args.cores)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    command = subprocess.Popen(args.command, stdin=subprocess.DEVNULL)
    try:
        while command.returncode is None and not _input_closed():
            reap(command)
        return command.returncode or 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all(command, args.grace_s, args.leftovers_s)


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _descendants() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def _input_closed() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], _POLL_S)
    return bool(readable)


def reap(command: subprocess.Popen[bytes]) -> None:
    """Collects every child that has ended; adopted ones would stay zombies otherwise."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == command.pid:
                command.returncode = os.waitstatus_to_exitcode(ended[1])


def end_all(command: subprocess.Popen[bytes], grace_s: float, leftovers_s: float) -> None:
    """End the command by SIGTERM, then kill every process that is left."""
    if command.returncode is None:
        command.send_signal(signal.SIGTERM)
        _wait_until_empty(command, grace_s, only=command.pid)
    # Killed more than once: what dies last may just have started something new.
    for send in (signal.SIGTERM, *[signal.SIGKILL] * 5):
        for process in _descendants():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(send)
        if _wait_until_empty(command, leftovers_s):
            return


def _wait_until_empty(
    command: subprocess.Popen[bytes], wait_s: float, only: int | None = None
) -> bool:
    deadline = monotonic() + wait_s
    while monotonic() < deadline:
        reap(command)
        left = {process.pid for process in _descendants()}
        if not left or (only is not None and only not in left):
            return True
        sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(main())
