"""The worker with a real ledger: expiry, full disks, other Routers, and calls that come first."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from serve_app.batches import worker as worker_module
from serve_app.batches.batch import Batch, StoredFile
from serve_app.batches.gate import LineGate
from serve_app.batches.store import BatchStore
from serve_app.batches.worker import BatchWorker, forget_old
from serve_app.core.caller import LineTurn
from tests.batches.disk import fill
from tests.batches.fakes import (
    FakeLineCalls,
    make_lines,
    open_store,
    put_batch,
    put_file,
    read_lines,
)

KEYS = {"lease_s": 0.3, "shard_lines": 4}


class Clock:
    """A clock that a test can set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[BatchStore]:
    opened = open_store(tmp_path, **KEYS)
    yield opened
    await opened.close()


async def end(store: BatchStore) -> Batch:
    async with asyncio.timeout(30):
        while not (batch := store.ledger.read_batch("batch_1")).status.ended:
            await asyncio.sleep(0.02)
    return batch


class HeldCalls(FakeLineCalls):
    """Answers only the first few lines."""

    def __init__(self, answered: int) -> None:
        super().__init__()
        self._left = answered

    def answer_all(self) -> None:
        """Answer the lines that come from now on."""
        self._left = 1_000_000

    async def call(self, *args: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            await asyncio.Event().wait()
        return await super().call(*args)


async def test_an_expired_batch_keeps_what_is_done(store: BatchStore) -> None:
    """The lines that were not answered in time stand in the error file, each with its code."""
    clock = Clock()
    put_batch(store, put_file(store, make_lines(10)), expires_at=clock() + 1000)
    worker = BatchWorker("r1", lambda: store, HeldCalls(3), LineGate(lambda: False), clock)
    worker.start()
    async with asyncio.timeout(20):
        while store.ledger.read_batch("batch_1").completed < 3:
            await asyncio.sleep(0.02)
    clock.ahead_s = 1001
    batch = await end(store)
    await worker.close()
    assert (batch.status, batch.completed) == ("expired", 3)
    done = {line["custom_id"] for line in read_lines(store, batch.output_file_id)}
    undone = read_lines(store, batch.error_file_id)
    assert len(done) == 3
    assert done | {line["custom_id"] for line in undone} == {f"c{n}" for n in range(1, 11)}
    assert {line["error"]["code"] for line in undone} == {"batch_expired"}


async def test_a_worker_that_stops_leaves_its_work_to_others(store: BatchStore) -> None:
    """The next worker need not wait for the end of a lease."""
    put_batch(store, put_file(store, make_lines(8)))
    first = BatchWorker("r1", lambda: store, HeldCalls(2), LineGate(lambda: False))
    first.start()
    async with asyncio.timeout(20):
        while store.ledger.read_batch("batch_1").completed < 2:
            await asyncio.sleep(0.02)
    await first.close()
    now = time.time()
    assert store.ledger.claim("r2", now, 0.0) is not None
    second = BatchWorker("r2", lambda: store, FakeLineCalls(), LineGate(lambda: False))
    second.start()
    assert (await end(store)).completed == 8
    await second.close()


async def test_a_line_is_tried_a_few_times(store: BatchStore) -> None:
    """After that the engine's error is its result."""
    calls = FakeLineCalls()
    calls.statuses = {"batch_req_1_1": [502, 429, 503], "batch_req_1_2": [400]}
    put_batch(store, put_file(store, make_lines(2)))
    worker = BatchWorker("r1", lambda: store, calls, LineGate(lambda: False))
    worker.start()
    batch = await end(store)
    await worker.close()
    assert (batch.completed, batch.failed) == (1, 1)
    assert calls.requests.count("batch_req_1_1") == 4
    assert calls.requests.count("batch_req_1_2") == 1


async def test_lines_that_never_work_end(tmp_path: Path) -> None:
    """`tries_max` bounds the attempts at a broken engine."""
    store = open_store(tmp_path, **KEYS, tries_max=1)
    put_batch(store, put_file(store, make_lines(1, lambda n: {"status": 500})))
    worker = BatchWorker("r1", lambda: store, FakeLineCalls(), LineGate(lambda: False))
    worker.start()
    batch = await end(store)
    await worker.close()
    [line] = read_lines(store, batch.error_file_id)
    assert line["response"]["status_code"] == 500
    await store.close()


async def test_a_file_that_is_gone_fails_its_batch(store: BatchStore) -> None:
    """The fault names the field of the batch."""
    put_batch(store, put_file(store, make_lines(1)))
    store.files.delete("file-in")
    worker = BatchWorker("r1", lambda: store, FakeLineCalls(), LineGate(lambda: False))
    worker.start()
    batch = await end(store)
    await worker.close()
    [fault] = batch.faults
    assert (fault.code, fault.param) == ("file_not_found", "input_file_id")


async def test_waiting_calls_take_the_places_of_lines() -> None:
    """The gate halves its places while calls wait, keeps one, and grows again."""
    crowded = False
    gate = LineGate(lambda: crowded)
    for _ in range(12):
        gate.adjust(16)
    assert gate.limit == 16
    crowded = True
    limits = []
    for _ in range(5):
        gate.adjust(16)
        limits.append(gate.limit)
    assert limits == [8, 4, 2, 1, 1]
    async with gate.place():
        waiting = asyncio.ensure_future(gate.place().__aenter__())
        await asyncio.sleep(0)
        assert (gate.busy, gate.waiting) == (1, 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert (gate.busy, gate.waiting) == (0, 0)


async def hold(gate: LineGate, rank: Callable[[], int], begun: list[int]) -> None:
    async with gate.place(rank):
        begun.append(rank())
        await asyncio.sleep(0)


async def test_lines_of_a_batch_that_soon_expires_come_first() -> None:
    """Also where they rose while they waited; lines of one rank come in their order."""
    gate, begun, risen = LineGate(lambda: True), list[int](), [100]
    gate.adjust(16)
    gate.adjust(16)
    async with gate.place():
        ranks = [lambda: 100, lambda: 75, lambda: risen[0], lambda: 75]
        tasks = [asyncio.create_task(hold(gate, rank, begun)) for rank in ranks]
        await asyncio.sleep(0)
        assert gate.waiting == 4
        risen[0] = 50
    await asyncio.gather(*tasks)
    assert begun == [50, 75, 75, 100]
    assert (gate.busy, gate.waiting) == (0, 0)


async def test_a_line_with_the_rank_of_clients_needs_no_room() -> None:
    """While calls wait there is one place for lines, and the others are for such lines."""
    gate, begun, risen = LineGate(lambda: True), list[int](), [25]
    for _ in range(5):
        gate.adjust(3)
    async with gate.place():
        task = asyncio.create_task(hold(gate, lambda: risen[0], begun))
        await asyncio.sleep(0)
        assert (gate.limit, gate.waiting) == (1, 1)
        risen[0] = 0
        gate.adjust(3)
        await task
        async with gate.place(lambda: 0), gate.place(lambda: 0):
            full = asyncio.create_task(hold(gate, lambda: 0, begun))
            await asyncio.sleep(0)
            assert (gate.busy, gate.waiting) == (3, 1)
        await full
    assert begun == [0, 0]


async def test_a_line_that_is_stopped_leaves_its_place() -> None:
    """Whether it waited, had just got the place, or had it."""
    gate = LineGate(lambda: True)
    gate.adjust(1)
    gate.adjust(1)
    async with gate.place():
        tasks = [asyncio.create_task(hold(gate, lambda: 100, [])) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (gate.busy, gate.waiting) == (0, 0)


async def test_a_line_rises_as_the_time_of_its_batch_runs_out(store: BatchStore) -> None:
    """Each attempt has the rank of its moment, at last that of clients' calls."""
    clock, calls = Clock(), FakeLineCalls()
    calls.statuses = {"batch_req_1_1": [503, 503]}
    begun_at = clock()
    put_batch(
        store, put_file(store, make_lines(1)), created_at=begun_at, expires_at=begun_at + 1000
    )
    worker = BatchWorker("r1", lambda: store, calls, LineGate(lambda: False), clock)
    worker.start()
    async with asyncio.timeout(20):
        for attempts, ahead_s in ((1, 880.0), (2, 990.0), (3, 990.0)):
            while len(calls.turns) < attempts:
                await asyncio.sleep(0.02)
            clock.ahead_s = ahead_s
    assert (await end(store)).completed == 1
    await worker.close()
    assert calls.turns == [LineTurn(100), LineTurn(25), LineTurn(0)]


async def test_lines_that_wait_do_not_keep_out_a_batch_that_soon_expires(
    store: BatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A background call has an hour; the night's batch waits for room for longer."""
    monkeypatch.setattr(worker_module, "CLAIM_S", 0.1)
    calls, clock = HeldCalls(0), Clock()
    put_batch(store, put_file(store, make_lines(8)))
    worker = BatchWorker("r1", lambda: store, calls, LineGate(lambda: True), clock)
    worker.start()
    async with asyncio.timeout(20):
        while not worker._gate.waiting:
            await asyncio.sleep(0.02)
        soon = {"created_at": clock() - 995.0, "expires_at": clock() + 5.0}
        put_batch(store, put_file(store, make_lines(1), "file-2"), "batch_2", **soon)
        calls.answer_all()
        while not store.ledger.read_batch("batch_2").status.ended:
            await asyncio.sleep(0.02)
    await worker.close()
    assert store.ledger.read_batch("batch_2").completed == 1
    assert not store.ledger.read_batch("batch_1").status.ended


async def test_a_full_disk_costs_time_and_no_line(small_disk: Path) -> None:
    """The worker waits for room, and then the batch ends as if nothing had been."""
    store = open_store(small_disk, **KEYS)
    put_batch(store, put_file(store, make_lines(40, lambda n: {"text": "x" * 2000})))
    ballast = fill(small_disk)
    calls = FakeLineCalls()
    worker = BatchWorker("r1", lambda: store, calls, LineGate(lambda: False))
    worker.start()
    await asyncio.sleep(2)
    assert not store.ledger.read_batch("batch_1").status.ended
    ballast.unlink()
    batch = await end(store)
    await worker.close()
    assert (batch.status, batch.completed) == ("completed", 40)
    output = read_lines(store, batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"c{n}" for n in range(1, 41)]
    await store.close()


async def test_old_and_forsaken_files_are_removed(store: BatchStore) -> None:
    """Files beyond `retention_days`, and what killed processes have left."""
    files = Path(store.config.directory) / "files"
    put_file(store, b"x", "file-old")
    store.ledger.add_file(StoredFile("file-new", "acme", "batch", "n", 1, time.time()))
    for name in ("file-new", "file-left", "file-x.r1-1.part", "file-just-now"):
        (files / name).write_bytes(b"x")
    day_before_yesterday = time.time() - 2 * 86400
    for path in files.iterdir():
        if path.name != "file-just-now":
            os.utime(path, (day_before_yesterday, day_before_yesterday))
    await store.run(forget_old, store, time.time())
    assert {path.name for path in files.iterdir()} == {"file-new", "file-just-now"}
    assert store.ledger.find_file("acme", "file-old") is None


async def test_a_long_batch_is_checked_in_slices(store: BatchStore) -> None:
    """The event loop goes on while 5,000 lines are checked, and no line is left out."""
    content = make_lines(5000, lambda n: {"n": n})
    put_batch(store, put_file(store, content))
    worker = BatchWorker("r1", lambda: store, FakeLineCalls(), LineGate(lambda: False))
    worker.start()
    async with asyncio.timeout(60):
        while store.ledger.read_batch("batch_1").status == "validating":
            await asyncio.sleep(0.02)
    batch = store.ledger.read_batch("batch_1")
    await worker.close()
    assert batch.total == 5000
    assert orjson.loads(content.splitlines()[4999])["custom_id"] == "c5000"
