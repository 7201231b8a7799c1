"""The child process of the test of the parent watch; imports little, because it is spawned."""

from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing.connection import Connection

from serve_app.replica.parent_watch import end_with_parent

GRACE_S = 0.3


def wait(told: Connection, *, ignores: bool) -> None:
    """Watch the parent, say so, and wait."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignores else signal.SIG_DFL)
    end_with_parent(GRACE_S)
    told.send("ready")
    time.sleep(60)


def start_child(kind: str) -> None:
    """Start a child, print its number when it watches, and wait."""
    context = multiprocessing.get_context("spawn")
    ready, told = context.Pipe(duplex=False)
    child = context.Process(target=wait, args=(told,), kwargs={"ignores": kind == "stubborn"})
    child.start()
    ready.recv()
    print(child.pid, flush=True)
    time.sleep(60)
