"""A replica whose own event loop is blocked: seen by a thread, because nothing else runs then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from serve_app.replica.liveness import Pulse

LOOK_S = 1.0
"""How often the thread looks."""


class LoopWatch:
    """Reports once if a counter that the event loop advances has stood still for `blocked_s`.

    Code that never releases Python's lock stops this thread, too. Ray's health checks find that.
    """

    def __init__(
        self,
        turns: Callable[[], int],
        blocked_s: float,
        report: Callable[[], None],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._turns, self._blocked_s, self._report = turns, blocked_s, report
        self._look_s = look_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking: the loop ends."""
        self._closed.set()

    def _run(self) -> None:
        pulse = Pulse(time.monotonic(), self._turns(), counted_s_max=2 * self._look_s)
        while not self._closed.wait(self._look_s):
            if pulse.note(time.monotonic(), self._turns()) >= self._blocked_s:
                self._report()
                return
