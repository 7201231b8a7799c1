"""Steps of an engine: each step, every open stream gets its next event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Steps:
    """Calls every stream once a step, as an engine adds a token to each sequence of its batch."""

    def __init__(self, step_s: float) -> None:
        """`step_s` 0: a step in each turn of the loop."""
        self._step_s = step_s
        self._streams: set[Callable[[], bool]] = set()
        self._running = False

    def add(self, stream: Callable[[], bool]) -> None:
        """Call `stream` in each step until it returns False."""
        self._streams.add(stream)
        if not self._running:
            self._running = True
            self._next()

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        if self._step_s:
            loop.call_later(self._step_s, self._step)
        else:
            loop.call_soon(self._step)

    def _step(self) -> None:
        for stream in list(self._streams):
            if not stream():
                self._streams.discard(stream)
        if self._streams:
            self._next()
        else:
            self._running = False
