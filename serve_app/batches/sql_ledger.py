"""The ledger in SQLite or PostgreSQL.

Every change begins by locking the batch, or the whole database where that is SQLite. Work is open
or closed; open work belongs to the worker that claimed it last, until its lease ends. Each claim
and each taking away of work raises the fence of the work, and every report of a worker names the
fence of its claim, so a worker that is late changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    union,
    update,
)

from serve_app.batches.batch import (
    BACKGROUND,
    BATCH_PREFIX,
    ENDED,
    Batch,
    BatchOwner,
    BatchProgress,
    BatchStatus,
    Job,
    LineFault,
    LineResult,
    Shard,
    StoredFile,
    WorkClaim,
)
from serve_app.batches.ledger import ClaimLost
from serve_app.batches.notices import Announce, announce_nothing
from serve_app.batches.sql_database import SqlDatabase
from serve_app.batches.sql_notices import add_notices
from serve_app.batches.tables import BATCHES, FILES, NOTICES, RESULTS, WORK

RESULTS_READ = 500
WHOLE = Shard(0, 1, 0, 0, 0)
"""The place of work that is not about some lines."""


class SqlLedger(SqlDatabase):
    """A BatchLedger that any number of processes may share."""

    def add_file(self, file: StoredFile) -> None:
        """A file is complete in the file store."""
        with self.change() as change:
            change.execute(insert(FILES).values(asdict(file)))

    def find_file(self, tenant: str, file_id: str) -> StoredFile | None:
        """The tenant's file."""
        mine = and_(FILES.c.tenant == tenant, FILES.c.file_id == file_id)
        with self.read() as read:
            row = read.execute(select(FILES).where(mine)).first()
        return None if row is None else StoredFile(**row._mapping)

    def list_files(
        self, tenant: str, *, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> Sequence[StoredFile]:
        """The tenant's files in the order of their making."""
        order = (FILES.c.created_at, FILES.c.file_id)
        query = select(FILES).where(FILES.c.tenant == tenant, FILES.c.purpose != BACKGROUND)
        if purpose is not None:
            query = query.where(FILES.c.purpose == purpose)
        if after is not None:
            place = select(*order).where(FILES.c.file_id == after).scalar_subquery()
            query = query.where(tuple_(*order) < place if newest else tuple_(*order) > place)
        query = query.order_by(*(key.desc() if newest else key for key in order)).limit(limit)
        with self.read() as read:
            return [StoredFile(**row._mapping) for row in read.execute(query)]

    def used_bytes(self, tenant: str) -> int:
        """The size of all files of a tenant."""
        query = select(func.coalesce(func.sum(FILES.c.size_bytes), 0))
        with self.read() as read:
            return int(read.execute(query.where(FILES.c.tenant == tenant)).scalar_one())

    def delete_file(self, tenant: str, file_id: str) -> bool:
        """Forget a file; False while a batch that has not ended reads the file."""
        reads = exists().where(BATCHES.c.input_file_id == file_id, BATCHES.c.status.not_in(ENDED))
        mine = and_(FILES.c.tenant == tenant, FILES.c.file_id == file_id)
        with self.change() as change:
            return change.execute(delete(FILES).where(mine, ~reads)).rowcount > 0

    def add_batch(self, batch: Batch) -> None:
        """A batch that must be validated first."""
        with self.change() as change:
            change.execute(insert(BATCHES).values(_render_batch(batch)))
            for job in (Job.VALIDATE, Job.ASSEMBLE):
                work = _render_work(batch.batch_id, job, WHOLE)
                change.execute(insert(WORK).values(work | {"open": job is Job.VALIDATE}))

    def find_batch(self, tenant: str, batch_id: str) -> Batch | None:
        """The tenant's batch."""
        mine = and_(BATCHES.c.tenant == tenant, BATCHES.c.batch_id == batch_id)
        with self.read() as read:
            row = read.execute(select(BATCHES).where(mine)).first()
        return None if row is None else _parse_batch(row)

    def read_batch(self, batch_id: str) -> Batch:
        """The batch of a claim."""
        query = select(BATCHES).where(BATCHES.c.batch_id == batch_id)
        with self.read() as read:
            row = read.execute(query).first()
        if row is None:
            raise ClaimLost
        return _parse_batch(row)

    def list_batches(self, tenant: str, *, after: str | None, limit: int) -> Sequence[Batch]:
        """The tenant's batches, newest first."""
        order = (BATCHES.c.created_at, BATCHES.c.batch_id)
        mine = and_(BATCHES.c.tenant == tenant, BATCHES.c.batch_id.startswith(BATCH_PREFIX))
        query = select(BATCHES).where(mine)
        if after is not None:
            place = select(*order).where(BATCHES.c.batch_id == after).scalar_subquery()
            query = query.where(tuple_(*order) < place)
        query = query.order_by(*(key.desc() for key in order)).limit(limit)
        with self.read() as read:
            return [_parse_batch(row) for row in read.execute(query)]

    def cancel(self, tenant: str, batch_id: str, now: float) -> Batch | None:
        """Take all work from the workers of a batch that has not ended."""
        with self.change() as change:
            row = self._lock(change, batch_id)
            if row is None or row.tenant != tenant:
                return None
            if row.status in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS):
                self._stop(change, row, BatchStatus.CANCELLING, BatchStatus.CANCELLED, now)
                row = change.execute(select(BATCHES).where(BATCHES.c.batch_id == batch_id)).one()
            return _parse_batch(row)

    def delete_batch(self, tenant: str, batch_id: str) -> Sequence[str]:
        """Forget a batch in any state. Its workers lose their claims, because there is no work."""
        with self.change() as change:
            row = self._lock(change, batch_id)
            if row is None or row.tenant != tenant:
                return []
            for table in (WORK, RESULTS, BATCHES):
                change.execute(delete(table).where(table.c.batch_id == batch_id))
            ids = [row.input_file_id, row.output_file_id, row.error_file_id]
            found = [file_id for file_id in ids if file_id is not None]
            change.execute(delete(FILES).where(FILES.c.file_id.in_(found)))
        return found

    def expire(self, now: float) -> int:
        """Take all work from the workers of batches that are out of time."""
        running = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
        due = and_(BATCHES.c.status.in_(running), BATCHES.c.expires_at <= now)
        with self.read() as read:
            ids = [row.batch_id for row in read.execute(select(BATCHES.c.batch_id).where(due))]
        return sum(self._expire_one(batch_id, now) for batch_id in ids)

    def _expire_one(self, batch_id: str, now: float) -> bool:
        with self.change() as change:
            row = self._lock(change, batch_id)
            if row is None or row.status not in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS):
                return False
            self._stop(change, row, BatchStatus.FINALIZING, BatchStatus.EXPIRED, now)
            return True

    def _stop(
        self,
        change: Connection,
        row: Row[Any],
        status: BatchStatus,
        ends_as: BatchStatus,
        now: float,
    ) -> None:
        """End the work on lines at once, and let the files be written."""
        mine = and_(WORK.c.batch_id == row.batch_id, WORK.c.job != Job.ASSEMBLE)
        stopped = {"open": False, "worker": None, "fence": WORK.c.fence + 1}
        change.execute(update(WORK).where(mine).values(stopped))
        self._move(change, row, status, now, ends_as=ends_as)
        self._open_assembly(change, row.batch_id)

    @staticmethod
    def _open_assembly(change: Connection, batch_id: str) -> None:
        mine = and_(WORK.c.batch_id == batch_id, WORK.c.job == Job.ASSEMBLE)
        change.execute(update(WORK).where(mine).values(open=True))

    @staticmethod
    def _move(
        change: Connection, row: Row[Any], status: BatchStatus, now: float, **values: Any
    ) -> None:
        """Put a locked batch into another state."""
        began_at = orjson.dumps({**orjson.loads(row.began_at), status.value: now}).decode()
        mine = BATCHES.c.batch_id == row.batch_id
        change.execute(
            update(BATCHES).where(mine).values(status=status, began_at=began_at, **values)
        )

    def claim(self, worker: str, now: float, lease_s: float) -> WorkClaim | None:
        """Some work that no worker has: of the tenant with the fewest claims, of its most urgent
        batch."""
        for batch_id in self._turns(now):
            claim = self._claim_of(batch_id, worker, now, lease_s)
            if claim is not None:
                return claim
        return None

    def _turns(self, now: float) -> list[str]:
        """The batches with work that no worker has, in the order in which they get a worker."""
        free = func.sum(case((WORK.c.leased_until <= now, 1), else_=0))
        work = (
            select(WORK.c.batch_id, free.label("free"), func.count().label("all"))
            .where(WORK.c.open.is_(True))
            .group_by(WORK.c.batch_id)
            .subquery()
        )
        query = select(BATCHES.c.tenant, BATCHES.c.expires_at, work).join(
            work, work.c.batch_id == BATCHES.c.batch_id
        )
        with self.read() as read:
            rows = read.execute(query).all()
        claims: Counter[str] = Counter()
        for row in rows:
            claims[row.tenant] += row.all - row.free
        waiting = [row for row in rows if row.free]
        waiting.sort(key=lambda row: (claims[row.tenant], row.expires_at, row.batch_id))
        return [row.batch_id for row in waiting]

    def _claim_of(self, batch_id: str, worker: str, now: float, lease_s: float) -> WorkClaim | None:
        free = and_(WORK.c.batch_id == batch_id, WORK.c.open.is_(True), WORK.c.leased_until <= now)
        query = select(WORK).where(free).order_by(WORK.c.job, WORK.c.number).limit(1)
        with self.change() as change:
            # Other workers pass a row that is being claimed; SQLite has one change at a time.
            row = change.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            mine = _same_work(row.batch_id, row.job, row.number)
            taken = {"worker": worker, "leased_until": now + lease_s, "fence": row.fence + 1}
            change.execute(update(WORK).where(mine).values(taken))
            shard = Shard(row.number, row.line, row.lines, row.offset_bytes, row.size_bytes)
            return WorkClaim(row.batch_id, Job(row.job), shard, row.fence + 1)

    def renew(self, claim: WorkClaim, now: float, lease_s: float) -> None:
        """Keep claimed work for longer."""
        with self.change() as change:
            self._renew(change, claim, now + lease_s)

    def release(self, claim: WorkClaim) -> None:
        """Give claimed work back undone; a lost claim is ignored."""
        with self.change() as change:
            change.execute(update(WORK).where(_held(claim)).values(leased_until=0.0))

    @staticmethod
    def _renew(change: Connection, claim: WorkClaim, until: float) -> None:
        renewed = change.execute(update(WORK).where(_held(claim)).values(leased_until=until))
        if not renewed.rowcount:
            raise ClaimLost

    def _close(self, change: Connection, claim: WorkClaim) -> None:
        closed = change.execute(update(WORK).where(_held(claim)).values(open=False, worker=None))
        if not closed.rowcount:
            raise ClaimLost

    def reject(
        self,
        claim: WorkClaim,
        faults: Sequence[LineFault],
        now: float,
        announce: Announce = announce_nothing,
    ) -> None:
        """The file is wrong, so the batch has failed."""
        rendered = orjson.dumps([asdict(fault) for fault in faults]).decode()
        with self.change() as change:
            row = self._lock_held(change, claim)
            self._close(change, claim)
            self._move(change, row, BatchStatus.FAILED, now, faults=rendered)
            add_notices(change, announce(BatchStatus.FAILED))
            change.execute(delete(WORK).where(WORK.c.batch_id == claim.batch_id))

    def accept(self, claim: WorkClaim, shards: Sequence[Shard], now: float) -> None:
        """The file is right: its lines may be answered."""
        total = sum(shard.lines for shard in shards)
        with self.change() as change:
            row = self._lock_held(change, claim)
            self._close(change, claim)
            self._move(change, row, BatchStatus.IN_PROGRESS, now, total=total)
            work = [_render_work(claim.batch_id, Job.LINES, shard) for shard in shards]
            change.execute(insert(WORK), work)

    def done_lines(self, claim: WorkClaim) -> Set[int]:
        """The lines of a shard that have results."""
        with self.read() as read:
            return self._done(read, claim)

    @staticmethod
    def _done(read: Connection, claim: WorkClaim) -> Set[int]:
        """A shard's lines are counted from its first line to the first line of the next one."""
        following = (
            select(func.min(WORK.c.line))
            .where(WORK.c.batch_id == claim.batch_id, WORK.c.job == Job.LINES)
            .where(WORK.c.line > claim.shard.line)
            .scalar_subquery()
        )
        mine = and_(RESULTS.c.batch_id == claim.batch_id, RESULTS.c.line >= claim.shard.line)
        before = RESULTS.c.line < func.coalesce(following, 2**31 - 1)
        return set(read.execute(select(RESULTS.c.line).where(mine, before)).scalars())

    def deliver(
        self, claim: WorkClaim, results: Sequence[LineResult], now: float, lease_s: float
    ) -> None:
        """Keep the first result of each line, and renew the claim."""
        with self.change() as change:
            row = self._lock_held(change, claim)
            self._renew(change, claim, now + lease_s)
            done = set(self._done(change, claim))
            new = {one.line: one for one in results if one.line not in done}
            if new:
                self._add_results(change, row, list(new.values()))
            if len(done) + len(new) >= claim.shard.lines:
                self._close(change, claim)
                self._finish_lines(change, row.batch_id, now)

    @staticmethod
    def _add_results(change: Connection, row: Row[Any], results: Sequence[LineResult]) -> None:
        change.execute(insert(RESULTS), [{"batch_id": row.batch_id} | asdict(r) for r in results])
        ok = sum(result.ok for result in results)
        counts = {"completed": row.completed + ok, "failed": row.failed + len(results) - ok}
        change.execute(update(BATCHES).where(BATCHES.c.batch_id == row.batch_id).values(counts))

    def _finish_lines(self, change: Connection, batch_id: str, now: float) -> None:
        """Let the files be written once the last shard is done."""
        mine = and_(WORK.c.batch_id == batch_id, WORK.c.job == Job.LINES, WORK.c.open.is_(True))
        if change.execute(select(WORK.c.number).where(mine).limit(1)).first() is not None:
            return
        row = self._lock(change, batch_id)
        assert row is not None, "the batch has been locked"
        self._move(change, row, BatchStatus.FINALIZING, now)
        self._open_assembly(change, batch_id)

    def results(self, batch_id: str, *, ok: bool) -> Iterator[tuple[int, bytes]]:
        """The results in the order of the lines, a few at a time."""
        line = 0
        while True:
            some = and_(RESULTS.c.batch_id == batch_id, RESULTS.c.ok.is_(ok), RESULTS.c.line > line)
            query = select(RESULTS.c.line, RESULTS.c.document).where(some)
            with self.read() as read:
                rows = read.execute(query.order_by(RESULTS.c.line).limit(RESULTS_READ)).all()
            if not rows:
                return
            yield from ((row.line, row.document) for row in rows)
            line = rows[-1].line

    def answered_lines(self, batch_id: str) -> Set[int]:
        """The lines of a batch that have been answered without an error."""
        mine = and_(RESULTS.c.batch_id == batch_id, RESULTS.c.ok.is_(True))
        with self.read() as read:
            return set(read.execute(select(RESULTS.c.line).where(mine)).scalars())

    def complete(
        self,
        claim: WorkClaim,
        output: StoredFile | None,
        errors: StoredFile | None,
        now: float,
        announce: Announce = announce_nothing,
    ) -> None:
        """The files are written: the batch has ended."""
        files = {"output_file_id": output, "error_file_id": errors}
        written = {key: file for key, file in files.items() if file is not None}
        with self.change() as change:
            row = self._lock_held(change, claim)
            self._close(change, claim)
            for file in written.values():
                change.execute(insert(FILES).values(asdict(file)))
            ids = {key: file.file_id for key, file in written.items()}
            self._move(change, row, BatchStatus(row.ends_as), now, **ids)
            add_notices(change, announce(BatchStatus(row.ends_as)))
            for table in (WORK, RESULTS):
                change.execute(delete(table).where(table.c.batch_id == claim.batch_id))

    def progress(self, now: float) -> Sequence[BatchProgress]:
        """The batches that have not ended, the oldest first."""
        leased = and_(WORK.c.open.is_(True), WORK.c.leased_until > now)
        work = (
            select(WORK.c.batch_id, func.sum(WORK.c.lines).label("claimed"))
            .where(leased, WORK.c.job == Job.LINES)
            .group_by(WORK.c.batch_id)
            .subquery()
        )
        claimed = func.coalesce(work.c.claimed, 0).label("claimed")
        query = (
            select(BATCHES, claimed)
            .outerjoin(work, work.c.batch_id == BATCHES.c.batch_id)
            .where(BATCHES.c.status.not_in(ENDED))
            .order_by(BATCHES.c.created_at, BATCHES.c.batch_id)
        )
        with self.read() as read:
            return [_parse_progress(row) for row in read.execute(query)]

    def unknown_files(self, file_ids: Sequence[str]) -> Sequence[str]:
        """Those of the ids that belong to no file, and are no input of a batch."""
        # The input of a background response is no file that its tenant sees.
        named = union(select(FILES.c.file_id), select(BATCHES.c.input_file_id))
        with self.read() as read:
            known = set(read.execute(named).scalars())
        return [file_id for file_id in file_ids if file_id not in known]

    def forget(self, before: float) -> Sequence[str]:
        """Forget ended batches and unused files from before a time."""
        ended = and_(BATCHES.c.status.in_(ENDED), BATCHES.c.created_at < before)
        read_by = exists().where(
            BATCHES.c.input_file_id == FILES.c.file_id, BATCHES.c.status.not_in(ENDED)
        )
        old = and_(FILES.c.created_at < before, ~read_by)
        with self.change() as change:
            ids = list(change.execute(select(FILES.c.file_id).where(old)).scalars())
            change.execute(delete(FILES).where(old))
            change.execute(delete(BATCHES).where(ended))
            change.execute(delete(NOTICES).where(NOTICES.c.created_at < before))
        return ids

    def _lock_held(self, change: Connection, claim: WorkClaim) -> Row[Any]:
        """The batch of a claim, locked, if the claim is still valid."""
        row = self._lock(change, claim.batch_id)
        if row is None or change.execute(select(WORK.c.fence).where(_held(claim))).first() is None:
            raise ClaimLost
        return row

    @staticmethod
    def _lock(change: Connection, batch_id: str) -> Row[Any] | None:
        query = select(BATCHES).where(BATCHES.c.batch_id == batch_id)
        return change.execute(query.with_for_update()).first()


def _same_work(batch_id: str, job: str, number: int) -> ColumnElement[bool]:
    return and_(WORK.c.batch_id == batch_id, WORK.c.job == job, WORK.c.number == number)


def _held(claim: WorkClaim) -> ColumnElement[bool]:
    """The work of a claim, while the claim is valid."""
    same = _same_work(claim.batch_id, claim.job, claim.shard.number)
    return and_(same, WORK.c.open.is_(True), WORK.c.fence == claim.fence)


def _render_work(batch_id: str, job: Job, shard: Shard) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "job": job,
        "number": shard.number,
        "line": shard.line,
        "lines": shard.lines,
        "offset_bytes": shard.offset,
        "size_bytes": shard.size_bytes,
        "open": True,
        "worker": None,
        "leased_until": 0.0,
        "fence": 0,
    }


def _render_batch(batch: Batch) -> dict[str, Any]:
    return {
        "batch_id": batch.batch_id,
        "tenant": batch.owner.tenant,
        "owner": orjson.dumps(asdict(batch.owner)).decode(),
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "metadata": orjson.dumps(batch.metadata).decode(),
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        "status": batch.status,
        "ends_as": BatchStatus.COMPLETED,
        "began_at": orjson.dumps(dict(batch.began_at)).decode(),
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "faults": "[]",
    }


def _parse_progress(row: Row[Any]) -> BatchProgress:
    """A claimed shard counts as a whole until its last line has a result."""
    left = row.total - row.completed - row.failed
    open_lines = left if row.status == BatchStatus.IN_PROGRESS else 0
    claimed = min(int(row.claimed), open_lines)
    return BatchProgress(
        batch_id=row.batch_id,
        created_at=row.created_at,
        waits=row.status == BatchStatus.VALIDATING or open_lines > claimed,
        waiting=open_lines - claimed,
        claimed=claimed,
        completed=row.completed,
        failed=row.failed,
    )


def _parse_batch(row: Row[Any]) -> Batch:
    owner = orjson.loads(row.owner)
    return Batch(
        batch_id=row.batch_id,
        owner=BatchOwner(**{**owner, "roles": tuple(owner["roles"])}),
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        status=BatchStatus(row.status),
        metadata=orjson.loads(row._mapping["metadata"]),
        began_at=orjson.loads(row.began_at),
        total=row.total,
        completed=row.completed,
        failed=row.failed,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        faults=tuple(LineFault(**fault) for fault in orjson.loads(row.faults)),
    )
