"""The events that wait for their receivers, in the ledger's database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from serve_app.batches.notices import Notice, NoticeClaim, WaitingEvents
from serve_app.batches.sql_database import SqlDatabase
from serve_app.batches.tables import NOTICES


class SqlNotices:
    """A NoticeBook. Events that were delivered, or given up, are not kept."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database

    def claim(self, hooks: Set[str], now: float, lease_s: float) -> NoticeClaim | None:
        """The event that has been due for the longest time."""
        due = and_(NOTICES.c.hook.in_(sorted(hooks)), NOTICES.c.due_at <= now)
        query = select(NOTICES).where(due).order_by(NOTICES.c.due_at).limit(1)
        with self._database.read() as read:
            if read.execute(query).first() is None:
                return None
        with self._database.change() as change:
            row = change.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            mine = and_(NOTICES.c.event_id == row.event_id, NOTICES.c.hook == row.hook)
            taken = {"tries": row.tries + 1, "due_at": now + lease_s}
            change.execute(update(NOTICES).where(mine).values(taken))
        kept = {name: row._mapping[name] for name in Notice.__dataclass_fields__}
        return NoticeClaim(Notice(**kept), row.tries + 1)

    def settle(self, claim: NoticeClaim) -> bool:
        """Forget an event."""
        with self._database.change() as change:
            return change.execute(delete(NOTICES).where(_held(claim))).rowcount > 0

    def postpone(self, claim: NoticeClaim, due_at: float) -> None:
        """Let the next attempt be made at a time."""
        with self._database.change() as change:
            change.execute(update(NOTICES).where(_held(claim)).values(due_at=due_at))

    def waiting(self) -> Mapping[str, WaitingEvents]:
        """What waits, by receiver."""
        query = select(NOTICES.c.hook, func.count(), func.min(NOTICES.c.created_at))
        with self._database.read() as read:
            rows = read.execute(query.group_by(NOTICES.c.hook)).all()
        return {hook: WaitingEvents(count, oldest_at) for hook, count, oldest_at in rows}


def add_notices(change: Connection, notices: Sequence[Notice]) -> None:
    """Keep events as a part of the change that they tell of."""
    if notices:
        rows = [asdict(notice) | {"due_at": notice.created_at, "tries": 0} for notice in notices]
        change.execute(insert(NOTICES), rows)


def _held(claim: NoticeClaim) -> ColumnElement[bool]:
    """The event of a claim, while no other sender has claimed it."""
    notice = claim.notice
    same = and_(NOTICES.c.event_id == notice.event_id, NOTICES.c.hook == notice.hook)
    return and_(same, NOTICES.c.tries == claim.tries)
