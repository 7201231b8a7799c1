"""Routers that are killed at random moments of a batch: no line is lost, none is there twice."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from serve_app.batches.batch import BatchStatus
from serve_app.batches.gate import LineGate
from serve_app.batches.sender import NoticeSender
from serve_app.batches.store import BatchStore
from serve_app.batches.worker import BatchWorker
from tests.batches.fakes import (
    FakeLineCalls,
    make_lines,
    open_store,
    put_batch,
    put_file,
    read_lines,
)
from tests.batches.receiver import SECRET, open_receiver

KILLS = 20
LINES = 400
KEYS = {"lease_s": 0.3, "shard_lines": 7, "concurrency": 8}
ENDS_S = 120.0
EVENTS, EVENT_KILLS = 25, 10
LATE = [
    "serve_app.batches.fsspec_files",
    "serve_app.batches.sql_notices",
    "serve_app.batches.webhook_post",
]
"""What a Router imports only where it is asked for."""


def work_for_ever(directory: Path, keys: dict[str, Any], name: str) -> None:
    """A Router that has nothing but batches to do."""

    async def work() -> None:
        store = open_store(directory, **keys)
        calls = FakeLineCalls(seconds_max=0.02)
        BatchWorker(name, lambda: store, calls, LineGate(lambda: False)).start()
        NoticeSender(lambda: store, lambda *_: None, poll_s=0.02).start()
        await asyncio.Event().wait()

    asyncio.run(work())


class Routers:
    """Two processes that work on the same ledger."""

    def __init__(self, directory: Path, keys: dict[str, Any]) -> None:
        self._directory, self._keys = directory, keys
        self._context = multiprocessing.get_context("forkserver")
        # Importing takes a process longer than all the work.
        self._context.set_forkserver_preload([__name__, *LATE])
        self._started = 0
        self._running = [self._start(), self._start()]

    def _start(self) -> BaseProcess:
        self._started += 1
        router = self._context.Process(
            target=work_for_ever, args=(self._directory, self._keys, f"r{self._started}")
        )
        router.start()
        return router

    def kill_one(self, chance: random.Random) -> None:
        """Kill -9 a process, and start another in its place."""
        victim = self._running.pop(chance.randrange(2))
        victim.kill()
        victim.join()
        self._running.append(self._start())

    def end(self) -> None:
        for router in self._running:
            router.kill()
            router.join()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_nothing_is_lost_or_done_twice(tmp_path: Path, seed: int) -> None:
    """Twenty kills while a batch is checked, answered and written."""
    chance = random.Random(seed)
    store = open_store(tmp_path, **KEYS)
    content = make_lines(LINES, lambda n: {"n": n, "status": 400 if n % 10 == 0 else 200})
    # Not of 1970: a new worker at once forgets ended batches that are as old.
    put_batch(store, put_file(store, content), created_at=time.time())
    routers = Routers(tmp_path, KEYS)
    try:
        kills = 0
        deadline = time.monotonic() + ENDS_S
        while not store.ledger.read_batch("batch_1").status.ended or kills < KILLS:
            assert time.monotonic() < deadline
            time.sleep(chance.uniform(0, 0.25))  # the random moment
            if kills < KILLS:
                routers.kill_one(chance)
                kills += 1
    finally:
        routers.end()
    batch = store.ledger.read_batch("batch_1")
    output, errors = (
        read_lines(store, file_id) for file_id in (batch.output_file_id, batch.error_file_id)
    )
    assert (batch.status, batch.completed, batch.failed) == (
        BatchStatus.COMPLETED,
        LINES * 9 // 10,
        LINES // 10,
    )
    answered = {line["custom_id"]: line["response"]["body"]["n"] for line in output + errors}
    assert len(output) + len(errors) == LINES
    assert answered == {f"c{n}": n for n in range(1, LINES + 1)}
    assert [line["custom_id"] for line in errors] == [f"c{n}" for n in range(10, LINES + 1, 10)]


async def test_no_event_is_lost(tmp_path: Path) -> None:
    """Ten kills while batches end and their events are sent to a receiver that often fails."""
    chance = random.Random(0)
    (tmp_path / "secret").write_text(SECRET)
    async with open_receiver() as receiver:
        receiver.script = [chance.choice((200, 200, 500)) for _ in range(1000)]
        hook = receiver.hook(secret={"file": str(tmp_path / "secret")})
        delivery = {"answer_s": 0.3, "pause_s": 0.1, "at_once": 2}
        keys = {**KEYS, "webhooks": [hook], "delivery": delivery}
        store = open_store(tmp_path, **keys)
        file_id = put_file(store, make_lines(10))
        for number in range(EVENTS):
            put_batch(store, file_id, f"batch_{number}")
        routers = Routers(tmp_path, keys)
        struck = 0
        try:
            async with asyncio.timeout(ENDS_S):
                for _ in range(EVENT_KILLS):
                    await receiver.has(len(receiver.requests) + 1)
                    await asyncio.sleep(chance.uniform(0, 0.05))  # the random moment
                    struck += bool(store.notices.waiting())
                    routers.kill_one(chance)
                while not told(store):
                    await asyncio.sleep(0.05)
        finally:
            routers.end()
    assert struck, "no event waited at any kill"
    bodies = Counter((one.event_id, one.body) for one in receiver.requests)
    assert {event_id for event_id, _ in bodies} == {f"evt_{n}" for n in range(EVENTS)}
    assert len(bodies) == EVENTS
    assert receiver.requests[0].unwrap().type == "batch.completed"
    await store.close()


def told(store: BatchStore) -> bool:
    """Whether all batches have ended, and no event waits."""
    batches = store.ledger.list_batches("acme", after=None, limit=EVENTS)
    return all(batch.status.ended for batch in batches) and not store.notices.waiting()
