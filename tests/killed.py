"""Writers that are killed at a random moment, and what they had acknowledged until then."""

from __future__ import annotations

import multiprocessing
import random
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

ALIVE_S_MAX = 0.15
MOMENTS = range(12)
"""The seeds of the moments at which a test kills its writer."""


def kill_writer(
    write: Callable[[Path, Connection], None], directory: Path, seed: int, *preload: str
) -> list[object]:
    """Run `write` in a process, kill -9 it; returns what it had sent to the connection."""
    with warnings.catch_warnings():
        # Tests of how a service ends may have ended the tracker with this process's descendants.
        warnings.simplefilter("ignore", UserWarning)
        resource_tracker.ensure_running()
    context = multiprocessing.get_context("forkserver")
    # Importing takes a process longer than all the writing.
    context.set_forkserver_preload(list(preload))
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=write, args=(directory, sender))
    child.start()
    sender.close()
    acknowledged = [receiver.recv()]
    time.sleep(random.Random(seed).uniform(0, ALIVE_S_MAX))  # the random moment
    child.kill()
    child.join()
    with suppress(EOFError, OSError):
        while True:
            acknowledged.append(receiver.recv())
    receiver.close()
    return acknowledged
