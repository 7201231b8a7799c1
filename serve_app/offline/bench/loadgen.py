"""The load generator, a process of its own: `python -m serve_app.offline.bench.loadgen`.

Each line of its input is a phase. It answers each phase with the lines `begun` and `ended` at the
edges of the measured window, so that the bench can read the CPU clocks there, and then with the
outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from time import perf_counter, time

import orjson
import uvloop

from serve_app.offline.bench.connection import LoadConnection, RequestFailed, Timing, connect
from serve_app.offline.bench.phase import Outcome, Phase, Requests

BEGUN = "begun"
ENDED = "ended"
_PAUSE_AFTER_ERROR_S = 0.05


async def generate(phase: Phase, announce: Callable[[str], None]) -> Outcome:
    """Drives one phase to its end, the answers still on their way included."""
    generator = _Generator(phase)
    clients = [asyncio.create_task(generator.client()) for _ in range(phase.clients)]
    await asyncio.sleep(phase.warmup_s)
    announce(BEGUN)
    generator.samples.clear()
    begun_at = perf_counter()
    await asyncio.sleep(phase.window_s)
    # What ends while the clocks are read or the last answers drain does not belong to the window.
    window_s, samples = perf_counter() - begun_at, generator.samples
    generator.stop()
    announce(ENDED)
    await _drain(clients, phase.drain_s, generator.errors)
    to_unix = time() - perf_counter()
    return Outcome(
        request_ids=[request_id for request_id, _ in samples],
        sent_at=[sample.sent_at + to_unix for _, sample in samples],
        first_event_s=[sample.first_event_s for _, sample in samples],
        total_s=[sample.total_s for _, sample in samples],
        errors=dict(generator.errors),
        window_s=window_s,
    )


async def _drain(clients: list[asyncio.Task[None]], drain_s: float, errors: Counter[str]) -> None:
    _, stuck = await asyncio.wait(clients, timeout=drain_s)
    for client in stuck:
        client.cancel()
        errors[f"no answer within {drain_s:g} s of the end"] += 1
    for fault in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(fault, Exception):
            raise fault


class _Generator:
    """The clients of one phase and their results."""

    def __init__(self, phase: Phase) -> None:
        self.samples: list[tuple[str, Timing]] = []
        self.errors: Counter[str] = Counter()
        self._phase = phase
        self._requests = Requests(phase)
        self._stopped = False

    def stop(self) -> None:
        """Lets every client finish its request and counts none of them any more."""
        self._stopped = True
        self.samples = []

    async def client(self) -> None:
        """Asks until stopped."""
        connection: LoadConnection | None = None
        try:
            while not self._stopped:
                if self._phase.pause_s:
                    await asyncio.sleep(random.expovariate(1 / self._phase.pause_s))
                if connection is None or not connection.reusable:
                    connection = await self._reconnect(connection)
                if connection is not None:
                    await self._ask(connection)
        finally:
            if connection is not None:
                connection.close()

    async def _reconnect(self, old: LoadConnection | None) -> LoadConnection | None:
        if old is not None:
            old.close()
        try:
            return await connect(self._phase.host, self._phase.port)
        except RequestFailed as error:
            await self._count(error)
            return None

    async def _ask(self, connection: LoadConnection) -> None:
        request_id, request = self._requests.next()
        try:
            sample = await connection.ask(request, self._phase.stream)
        except RequestFailed as error:
            connection.close()
            await self._count(error)
        else:
            self.samples.append((request_id, sample))

    async def _count(self, error: RequestFailed) -> None:
        self.errors[str(error)] += 1
        await asyncio.sleep(_PAUSE_AFTER_ERROR_S)


def main() -> None:
    """Serves phases until its input ends."""
    # Not sys.stdout: under PYTHONUNBUFFERED it is raw, and a raw write may take only a part.
    with open(0, "rb", closefd=False) as heard, open(1, "wb", closefd=False) as said:

        def say(word: str | Outcome) -> None:
            said.write(orjson.dumps(word) + b"\n")
            said.flush()

        for line in heard:
            say(uvloop.run(generate(Phase(**orjson.loads(line)), say)))


if __name__ == "__main__":
    main()
