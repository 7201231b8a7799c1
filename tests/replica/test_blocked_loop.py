"""The thread that sees a blocked event loop."""

from __future__ import annotations

import itertools
import threading

from serve_app.replica.blocked_loop import LoopWatch


def test_a_loop_that_turns_is_left_alone() -> None:
    """Until it stands still."""
    turns, looked, blocked = itertools.count(), threading.Event(), threading.Event()
    stands_still = threading.Event()
    at = 0

    def read() -> int:
        nonlocal at
        if not stands_still.is_set():
            at = next(turns)
        if at > 50:
            looked.set()
        return at

    watch = LoopWatch(read, 0.02, blocked.set, look_s=0.005)
    assert looked.wait(20)
    assert not blocked.is_set()
    stands_still.set()
    assert blocked.wait(20)
    watch.close()


def test_a_watch_that_is_closed_reports_nothing() -> None:
    """The loop of a replica that ends turns no more."""
    reported: list[None] = []
    watch = LoopWatch(lambda: 0, 30, lambda: reported.append(None), look_s=0.01)
    watch.close()
    watch._thread.join(20)
    assert not watch._thread.is_alive()
    assert reported == []
