"""The clock of the running event loop, moved by a test."""

from __future__ import annotations

import asyncio

import pytest


class Clock:
    """Moves the loop's time ahead: timers that are due then fire without a wait or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        self.errors: list[object] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        monkeypatch.setattr(loop, "time", lambda: self._now)

    async def advance(self, seconds: float) -> None:
        self._now += seconds
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.errors == []
