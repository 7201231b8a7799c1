"""An engine as a replica watches it, without an engine."""

from __future__ import annotations

import asyncio

from serve_app.replica.liveness import EngineFault


class FakeEngine:
    """An engine that does what a test tells it to do."""

    can_be_pinged = True

    def __init__(self) -> None:
        self.known: EngineFault | None = None
        self.made = 0
        self.has_requests = False
        self.loop_turns = True
        self.paused = False
        self.probes = 0
        self.token = asyncio.Event()
        self.error: Exception | None = None
        self.steps_error: Exception | None = None

    def fault(self) -> EngineFault | None:
        return self.known

    def steps(self) -> int:
        if self.steps_error is not None:
            raise self.steps_error
        return self.made

    def busy(self) -> bool:
        return self.has_requests

    async def ping(self) -> bool:
        if self.error is not None:
            raise self.error
        if not self.loop_turns:
            await asyncio.Future()
        return self.paused

    async def probe(self) -> None:
        self.probes += 1
        await self.token.wait()
        self.made += 1
