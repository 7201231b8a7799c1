"""The clock of the running event loop, moved by a test."""

from __future__ import annotations

import asyncio

import pytest


class Clock:
    """Moves the loop's time ahead: timers that are due then fire without a wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self._now)

    async def advance(self, seconds: float) -> None:
        self._now += seconds
        for _ in range(5):
            await asyncio.sleep(0)
