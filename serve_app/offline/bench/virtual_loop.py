"""An event loop whose clock skips to the next timer, so that a simulated hour takes seconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _SkippingSelector(selectors.DefaultSelector):
    """Lets the time pass for which the loop would sleep."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("every task waits for an event that no timer brings")
        self.now += max(0.0, timeout)
        ready: list[Any] = super().select(0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs the same for the same tasks, however busy the machine is."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Virtual seconds since the loop began."""
        return self._skipping.now


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
