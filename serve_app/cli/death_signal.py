"""The signal that the kernel sends a process when its parent ends; imports little."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
"""The constant of linux/prctl.h."""


def end_with_parent(signum: signal.Signals) -> None:
    """Get the signal when the thread that has started this process ends; holds across `exec`.

    The starter must be a thread that lives as long as its process: a main thread or an event loop.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
