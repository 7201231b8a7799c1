"""Does the work that the ledger has, beside the calls of clients, in one Router replica."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Protocol

from serve_app.batches.assembly import Assembly
from serve_app.batches.batch import (
    BACKGROUND_PREFIX,
    Batch,
    BatchOwner,
    BatchProgress,
    Job,
    LineFault,
    LineResult,
    StoredFile,
    WorkClaim,
)
from serve_app.batches.checking import FileCheck
from serve_app.batches.file_store import FileMissing, FileStoreUnavailable
from serve_app.batches.gate import LineGate
from serve_app.batches.ledger import ClaimLost, LedgerUnavailable
from serve_app.batches.lines import (
    BatchLine,
    LineAnswer,
    parse_line,
    read_status,
    render_answer,
    request_id_of,
)
from serve_app.batches.notices import Announce, make_notices
from serve_app.batches.store import BatchStore
from serve_app.config.tiers import DAY_S
from serve_app.core.caller import LineTurn
from serve_app.core.ranks import choose_rank

logger = logging.getLogger("ray.serve")

POLL_S = 0.25
IDLE_POLL_S = 1.0
"""How often the ledger is asked for work while there is none."""
SWEEP_S = 2.0
"""How often batches that are out of time are looked for."""
LOOK_S = 10.0
"""How often lines are counted for the metrics."""
CLAIM_S = 30.0
"""How long lines that wait for a place keep a worker from claiming more."""
FORGET_S = 3600.0
LEFT_S = float(DAY_S)
"""A file that no batch and no upload knows is older than any that is still being written."""
RENEW_S_MAX = 5.0
"""A cancelled batch loses its workers within this time."""
SLICE_S = 0.005
REST_RATIO = 3.0
"""Checking and writing take a quarter of a thread's time, because threads share one interpreter
with the event loop."""
PAUSE_S = 0.5
PAUSE_S_MAX = 60.0
BUSY = frozenset({429, 503})
"""The line was not begun. Trying again costs nothing."""
BROKEN = frozenset({408, 500, 502, 504})


class LineCalls(Protocol):
    """Carries the calls of lines."""

    @property
    def body_bytes_max(self) -> int:
        """The longest body of a call."""
        ...

    def check(self, owner: BatchOwner, endpoint: str, body: bytes) -> LineFault | None:
        """What is wrong with a call; the line number is left out. Called in a thread."""
        ...

    async def call(
        self, owner: BatchOwner, endpoint: str, body: bytes, request_id: str, turn: LineTurn
    ) -> LineAnswer:
        """The answer to a call, errors included."""
        ...


def forget_old(store: BatchStore, now: float) -> None:
    """Remove what has been kept long enough, and what killed processes have left behind."""
    ids = store.ledger.forget(now - store.config.retention_days * DAY_S)
    left = store.ledger.unknown_files(store.files.list_old(now - LEFT_S))
    for file_id in {*ids, *left}:
        store.files.delete(file_id)


def read_answered(store: BatchStore, batch: Batch, output: StoredFile | None) -> str:
    """The status of the answer to a call in the background, for its event."""
    if not batch.batch_id.startswith(BACKGROUND_PREFIX) or not store.config.webhooks:
        return ""
    return "failed" if output is None else read_status(store.files.read(output.file_id))


class BatchWorker:
    """One Router's share of the work. Workers of other Routers take the rest."""

    def __init__(
        self,
        name: str,
        find_store: Callable[[], BatchStore | None],
        calls: LineCalls,
        gate: LineGate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`find_store` gives the store of the newest config; None: batches are off."""
        self._name = name
        self._find_store = find_store
        self._calls = calls
        self._gate = gate
        self._clock = clock
        self._jobs: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._adjust_at = self._claim_at = self._sweep_at = 0.0
        self._look_at = self._forget_at = 0.0
        self.progress: Sequence[BatchProgress] | None = None
        """The batches that have not ended, as the ledger has said last; None: batches are off."""

    def start(self) -> None:
        """Begin, in the running event loop."""
        loop = asyncio.get_running_loop()
        # The context is empty because Ray would otherwise tie the work to a request.
        self._task = loop.create_task(self._run(), context=Context())

    async def close(self) -> None:
        """Stop. The work that is not done goes to another worker at once."""
        tasks = [*self._jobs, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            store = self._find_store()
            if store is None:
                self._stop_jobs()
                self.progress = None
                await asyncio.sleep(IDLE_POLL_S)
                continue
            store.more.clear()
            pause_s = await self._tend(store)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await store.more.wait()

    def _stop_jobs(self) -> None:
        for job in self._jobs:
            job.cancel()

    async def _tend(self, store: BatchStore) -> float:
        """Look for work; returns the time after which to look again."""
        self._adjust_gate(store)
        try:
            await self._sweep(store)
            while self._may_claim():
                claim = await store.run(
                    store.ledger.claim, self._name, self._clock(), store.config.lease_s
                )
                if claim is None:
                    break
                await self._begin(store, claim)
        except (FileStoreUnavailable, LedgerUnavailable) as error:
            logger.warning("the store of batches cannot be used: %s", error)
            return IDLE_POLL_S
        return POLL_S if self._jobs else IDLE_POLL_S

    def _may_claim(self) -> bool:
        """Whether to look for more work. Lines that wait for long must not keep out another batch,
        whose lines may come before them."""
        now = asyncio.get_running_loop().time()
        if len(self._jobs) > self._gate.limit_max:
            return False
        if now < self._claim_at and (self._gate.waiting or len(self._jobs) > self._gate.limit):
            return False
        self._claim_at = now + CLAIM_S
        return True

    def _adjust_gate(self, store: BatchStore) -> None:
        """Follow the tiers at a steady pace, however often work ends."""
        now = asyncio.get_running_loop().time()
        if now >= self._adjust_at:
            self._adjust_at = now + POLL_S
            self._gate.adjust(store.config.concurrency)

    async def _sweep(self, store: BatchStore) -> None:
        """End batches that are out of time, count lines, and forget old batches."""
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            await store.run(store.ledger.expire, now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self.progress = await store.run(store.ledger.progress, now)
        if now >= self._forget_at:
            self._forget_at = now + FORGET_S
            await store.run(forget_old, store, now)

    async def _begin(self, store: BatchStore, claim: WorkClaim) -> None:
        loop = asyncio.get_running_loop()
        job = loop.create_task(self._work(store, claim))
        self._jobs.add(job)
        job.add_done_callback(partial(self._end, store))
        # The job's lines reach the gate before the next claim is considered.
        await asyncio.wait([job], timeout=POLL_S / 10)

    def _end(self, store: BatchStore, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        store.more.set()

    async def _work(self, store: BatchStore, claim: WorkClaim) -> None:
        """Work that fails is claimed again once its lease has ended."""
        try:
            batch = await store.run(store.ledger.read_batch, claim.batch_id)
            match claim.job:
                case Job.VALIDATE:
                    await self._validate(store, claim, batch)
                case Job.LINES:
                    await self._answer_lines(store, claim, batch)
                case Job.ASSEMBLE:
                    await self._assemble(store, claim, batch)
        except ClaimLost:
            logger.info("work of %s went to another worker, or was stopped", claim.batch_id)
        except (LedgerUnavailable, FileStoreUnavailable) as error:
            logger.warning("work of %s waits: %s", claim.batch_id, error)
        except asyncio.CancelledError:
            with suppress(LedgerUnavailable, RuntimeError):
                await store.run(store.ledger.release, claim)
            raise
        except Exception:
            logger.exception("work of %s failed", claim.batch_id)

    async def _validate(self, store: BatchStore, claim: WorkClaim, batch: Batch) -> None:
        line_bytes_max = self._calls.body_bytes_max
        check = FileCheck(
            store.files.lines(batch.input_file_id, line_bytes_max),
            batch.endpoint,
            lambda body: self._calls.check(batch.owner, batch.endpoint, body),
            lines_max=store.config.lines_max,
            line_bytes_max=line_bytes_max,
            shard_lines=store.config.shard_lines,
        )
        try:
            await self._in_slices(store, claim, check.work)
        except FileMissing:
            message = "The file is gone. Upload it again."
            check.faults.append(LineFault("file_not_found", message, "input_file_id"))
        if check.faults:
            now, announce = self._clock(), self._announce(store, batch, "failed")
            await store.run(store.ledger.reject, claim, check.faults, now, announce)
        else:
            await store.run(store.ledger.accept, claim, check.shards, self._clock())

    async def _assemble(self, store: BatchStore, claim: WorkClaim, batch: Batch) -> None:
        assembly = Assembly(
            batch,
            store.ledger,
            store.files,
            writer=f"{self._name}-{claim.fence}",
            line_bytes_max=self._calls.body_bytes_max,
            clock=self._clock,
        )
        try:
            await self._in_slices(store, claim, assembly.work)
        except BaseException:
            await asyncio.shield(store.run(assembly.close))
            raise
        answered = await store.run(read_answered, store, batch, assembly.output)
        await store.run(
            store.ledger.complete,
            claim,
            assembly.output,
            assembly.errors,
            self._clock(),
            self._announce(store, batch, answered),
        )

    def _announce(self, store: BatchStore, batch: Batch, answered: str) -> Announce:
        now, hooks = self._clock(), store.config.webhooks
        return lambda status: make_notices(hooks, batch, status, answered, now)

    async def _in_slices(
        self, store: BatchStore, claim: WorkClaim, work: Callable[[float], bool]
    ) -> None:
        """Work in short slices, so that calls of clients hardly notice."""
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + self._renew_s(store)
        while not await store.run(work, SLICE_S):
            await asyncio.sleep(SLICE_S * REST_RATIO)
            if loop.time() >= renew_at:
                renew_at = loop.time() + self._renew_s(store)
                await store.run(store.ledger.renew, claim, self._clock(), store.config.lease_s)

    @staticmethod
    def _renew_s(store: BatchStore) -> float:
        return min(store.config.lease_s / 3, RENEW_S_MAX)

    async def _answer_lines(self, store: BatchStore, claim: WorkClaim, batch: Batch) -> None:
        lines = await store.run(self._read_lines, store, claim, batch)
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(self._answer(store, batch, line)) for line in lines}
        try:
            await self._deliver(store, claim, [])
            while tasks:
                done, tasks = await asyncio.wait(
                    tasks, timeout=self._renew_s(store), return_when=asyncio.FIRST_COMPLETED
                )
                await self._deliver(store, claim, [task.result() for task in done])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    def _read_lines(store: BatchStore, claim: WorkClaim, batch: Batch) -> list[BatchLine]:
        """The lines of a shard that have no result yet."""
        shard = claim.shard
        raw = store.files.read(batch.input_file_id, shard.offset, shard.size_bytes)
        done = store.ledger.done_lines(claim)
        return [
            parse_line(line, number, batch.endpoint)
            for number, line in enumerate(raw.split(b"\n"), start=shard.line)
            if line.strip() and number not in done
        ]

    async def _deliver(
        self, store: BatchStore, claim: WorkClaim, results: Sequence[LineResult]
    ) -> None:
        """Keep results, however long the ledger cannot be used: they have cost work."""
        pause_s = PAUSE_S
        while True:
            try:
                await store.run(
                    store.ledger.deliver, claim, results, self._clock(), store.config.lease_s
                )
                return
            except LedgerUnavailable as error:
                logger.warning("results of %s wait for the ledger: %s", claim.batch_id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _find_rank(self, store: BatchStore, batch: Batch) -> int:
        """The rank of a batch's lines at this moment."""
        window_s = max(batch.expires_at - batch.created_at, 1e-9)
        left_ratio = (batch.expires_at - self._clock()) / window_s
        return choose_rank(left_ratio, store.config.rising_ratio)

    async def _answer(self, store: BatchStore, batch: Batch, line: BatchLine) -> LineResult:
        """The final answer to a line, after as many attempts as it takes."""
        request_id = request_id_of(batch.batch_id, line.number)
        tries, pause_s = 0, PAUSE_S
        while True:
            async with self._gate.place(partial(self._find_rank, store, batch)):
                turn = LineTurn(self._find_rank(store, batch), store.config.add_replicas)
                answer = await self._calls.call(
                    batch.owner, batch.endpoint, line.body, request_id, turn
                )
            tries += answer.status in BROKEN
            final = answer.status not in BUSY and answer.status not in BROKEN
            if final or tries >= store.config.tries_max:
                return render_answer(batch.batch_id, line, answer)
            asked_s = min(answer.retry_after_s or 0.0, PAUSE_S_MAX)
            await asyncio.sleep(max(pause_s, asked_s) * random.uniform(1, 1.25))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
