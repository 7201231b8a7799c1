"""An engine's processes end when their parent does.

vLLM's EngineCore does not notice that its replica has died, and its workers may wait for each other
when EngineCore has. Ray's raylet ends them with the replica, but only while the raylet itself
lives. So each process watches its parent by itself. Not by PR_SET_PDEATHSIG, which speaks of the
parent's thread, and a thread of a replica may end before the replica.
"""

from __future__ import annotations

import os
import select
import signal
import time
from threading import Thread
from typing import Any

GRACE_S = 2.0
"""The time after SIGTERM in which EngineCore can remove its files and stop its workers."""


def watch_engine_processes() -> None:
    """Let the EngineCore that this process will start, and its workers, watch their parents."""
    from vllm.v1.engine.core import EngineCoreProc

    if EngineCoreProc.run_engine_core is not run_engine_core:
        run_engine_core.original = EngineCoreProc.run_engine_core  # type: ignore[attr-defined]
        EngineCoreProc.run_engine_core = staticmethod(run_engine_core)


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """EngineCore's main function, with the watch."""
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.executor.multiproc_executor import WorkerProc

    end_with_parent()
    run_worker.original = WorkerProc.worker_main  # type: ignore[attr-defined]
    WorkerProc.worker_main = staticmethod(run_worker)
    # In a process that was spawned, and not forked, nothing has been replaced.
    getattr(run_engine_core, "original", EngineCoreProc.run_engine_core)(*args, **kwargs)


def run_worker(*args: Any, **kwargs: Any) -> None:
    """A worker's main function, with the watch."""
    from vllm.v1.executor.multiproc_executor import WorkerProc

    end_with_parent()
    getattr(run_worker, "original", WorkerProc.worker_main)(*args, **kwargs)


def end_with_parent(grace_s: float = GRACE_S) -> None:
    """Get SIGTERM when the parent process ends, and SIGKILL `grace_s` later."""
    parent = os.getppid()
    try:
        watched = os.pidfd_open(parent)
    except ProcessLookupError:
        _end(grace_s)
        return
    if os.getppid() != parent:  # it has ended, and its number may have a new owner
        _end(grace_s)
    Thread(target=_watch, args=(watched, grace_s), name="parent-watch", daemon=True).start()


def _watch(watched: int, grace_s: float) -> None:
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.poll()
    _end(grace_s)


def _end(grace_s: float) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGKILL)
