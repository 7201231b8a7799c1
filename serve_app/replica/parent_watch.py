"""An engine's processes end when their parent does.

vLLM's EngineCore does not notice that its replica has died, and its workers may wait for each other
when EngineCore has. Ray's raylet ends them with the replica, but only while the raylet itself
lives. So each process watches its parent by itself. Not by PR_SET_PDEATHSIG, which speaks of the
parent's thread, and a thread of a replica may end before the replica.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import time
from contextlib import suppress
from threading import Thread
from typing import Any

logger = logging.getLogger("ray.serve")

GRACE_S = 2.0
"""The time after SIGTERM in which EngineCore can remove its files and stop its workers."""
POLL_S = 0.5


def watch_engine_processes() -> None:
    """Let the EngineCore that this process will start, and its workers, watch their parents."""
    from vllm.v1.engine.core import EngineCoreProc

    original = getattr(EngineCoreProc, "run_engine_core", None)
    if original is None:
        logger.warning("vLLM starts its engine by another function: it does not watch this replica")
    elif original is not run_engine_core:
        run_engine_core.original = original  # type: ignore[attr-defined]
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
    """Get SIGTERM when the process that has started this one ends, and SIGALRM `grace_s` later.

    For processes that `multiprocessing` has started.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "multiprocessing has started this process"
    arguments = (parent.pid, grace_s)
    Thread(target=_watch, args=arguments, name="parent-watch", daemon=True).start()


def _watch(parent: int, grace_s: float) -> None:
    with suppress(OSError):  # It has ended already, or the kernel is older than 5.3.
        _wait_ended(os.pidfd_open(parent))
    while os.getppid() == parent:
        time.sleep(POLL_S)
    # SIGALRM ends a process too, and by the kernel alone: a worker may hang while its interpreter
    # ends, when no thread runs any more.
    signal.setitimer(signal.ITIMER_REAL, grace_s)
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_ended(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()
    os.close(process)
