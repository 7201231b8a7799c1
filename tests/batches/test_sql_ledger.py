"""The ledger: who has which work, and which results count."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.batches.batch import (
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
from serve_app.batches.ledger import ClaimLost, LedgerUnavailable
from serve_app.batches.notices import Notice, NoticeClaim, WaitingEvents
from serve_app.batches.sql_ledger import SqlLedger
from serve_app.batches.sql_notices import SqlNotices
from tests.batches.fakes import CHAT

LEASE_S = 10.0
SHARDS = [Shard(0, 1, 2, 0, 20), Shard(1, 3, 2, 20, 20), Shard(2, 5, 1, 40, 10)]


def put(
    ledger: SqlLedger, name: str = "batch_1", tenant: str = "acme", expires_at: float = 1000
) -> None:
    ledger.add_batch(Batch(name, BatchOwner(tenant), CHAT, "file-1", 0.0, expires_at))


def take(ledger: SqlLedger, now: float = 0.0, worker: str = "w") -> WorkClaim:
    claim = ledger.claim(worker, now, LEASE_S)
    assert claim is not None
    return claim


def begin(ledger: SqlLedger, name: str = "batch_1", tenant: str = "acme") -> None:
    """A batch whose lines may be answered."""
    put(ledger, name, tenant)
    claim = take(ledger)
    assert (claim.batch_id, claim.job) == (name, Job.VALIDATE)
    ledger.accept(claim, SHARDS, 0.0)


def result(line: int, text: bytes = b"x", *, ok: bool = True) -> LineResult:
    return LineResult(line, ok, text)


def test_a_batch_goes_from_state_to_state(ledger: SqlLedger) -> None:
    """Validated, answered, written; every state has its time."""
    begin(ledger)
    for number, lines in enumerate(([1, 2], [3, 4], [5])):
        claim = take(ledger, 1.0)
        assert (claim.job, claim.shard.number) == (Job.LINES, number)
        ledger.deliver(claim, [result(line, ok=line != 2) for line in lines], 2.0, LEASE_S)
    batch = ledger.read_batch("batch_1")
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("finalizing", 5, 4, 1)
    assert [line for line, _ in ledger.results("batch_1", ok=True)] == [1, 3, 4, 5]
    assert [line for line, _ in ledger.results("batch_1", ok=False)] == [2]
    claim = take(ledger, 3.0)
    assert claim.job is Job.ASSEMBLE
    ledger.complete(claim, StoredFile("file-o", "acme", "batch_output", "o", 9, 4.0), None, 4.0)
    batch = ledger.read_batch("batch_1")
    assert (batch.status, batch.output_file_id, batch.error_file_id) == (
        "completed",
        "file-o",
        None,
    )
    assert batch.began_at == {"in_progress": 0.0, "finalizing": 2.0, "completed": 4.0}
    assert ledger.claim("w", 99.0, LEASE_S) is None
    assert not list(ledger.results("batch_1", ok=True))


def test_work_goes_on_after_its_lease(ledger: SqlLedger) -> None:
    """Another worker gets what is not done; the first worker's reports count no more."""
    begin(ledger)
    first = take(ledger)
    ledger.deliver(first, [result(1, b"first")], 0.0, LEASE_S)
    others = [take(ledger), take(ledger)]
    assert ledger.claim("w2", LEASE_S - 1, LEASE_S) is None
    again = take(ledger, LEASE_S, "w2")
    assert (again.shard, again.fence) == (first.shard, first.fence + 1)
    assert ledger.done_lines(again) == {1}
    for report in (
        lambda: ledger.deliver(first, [result(2)], LEASE_S, LEASE_S),
        lambda: ledger.renew(first, LEASE_S, LEASE_S),
    ):
        with pytest.raises(ClaimLost):
            report()
    ledger.deliver(again, [result(1, b"second"), result(2)], LEASE_S, LEASE_S)
    assert dict(ledger.results("batch_1", ok=True)) == {1: b"first", 2: b"x"}
    assert others[0].shard.number == 1


def test_a_renewed_lease_is_kept(ledger: SqlLedger) -> None:
    """No other worker gets the work; released work goes on at once."""
    begin(ledger)
    claims = [take(ledger) for _ in SHARDS]
    for claim in claims:
        ledger.renew(claim, 9.0, LEASE_S)
    assert ledger.claim("w2", 18.0, LEASE_S) is None
    ledger.release(claims[1])
    assert take(ledger, 18.0).shard == claims[1].shard


def test_a_wrong_file_ends_its_batch(ledger: SqlLedger) -> None:
    """The faults are kept, and there is no more work."""
    put(ledger)
    fault = LineFault("invalid_json_line", "No.", None, 7)
    ledger.reject(take(ledger), [fault], 1.0)
    batch = ledger.read_batch("batch_1")
    assert (batch.status, batch.faults) == ("failed", (fault,))
    assert ledger.claim("w", 99.0, LEASE_S) is None


@pytest.mark.parametrize("validated", [True, False])
def test_a_cancelled_batch_takes_no_more_results(ledger: SqlLedger, validated: bool) -> None:
    """Its workers lose their claims at once, and its files can be written."""
    if validated:
        begin(ledger)
    else:
        put(ledger)
    claim = take(ledger)
    batch = ledger.cancel("acme", "batch_1", 1.0)
    assert batch is not None
    assert batch.status == "cancelling"
    with pytest.raises(ClaimLost):
        ledger.renew(claim, 1.0, LEASE_S)
    final = take(ledger, 1.0)
    assert final.job is Job.ASSEMBLE
    ledger.complete(final, None, None, 2.0)
    assert ledger.read_batch("batch_1").status == "cancelled"
    again = ledger.cancel("acme", "batch_1", 3.0)
    assert again is not None
    assert again.status == "cancelled"
    assert ledger.cancel("other", "batch_1", 3.0) is None


def test_a_batch_out_of_time_expires(ledger: SqlLedger) -> None:
    """What is done is kept."""
    begin(ledger)
    ledger.deliver(take(ledger), [result(1)], 0.0, LEASE_S)
    assert ledger.expire(999.0) == 0
    assert ledger.expire(1000.0) == 1
    assert ledger.expire(1000.0) == 0
    claim = take(ledger, 1000.0)
    assert claim.job is Job.ASSEMBLE
    assert ledger.answered_lines("batch_1") == {1}
    ledger.complete(claim, None, None, 1001.0)
    assert ledger.read_batch("batch_1").status == "expired"


def test_lines_are_counted_by_state(ledger: SqlLedger) -> None:
    """Without those that a worker has; a batch that is written waits for nothing any more."""
    put(ledger)
    assert ledger.progress(0.0) == [BatchProgress("batch_1", 0.0, True, 0, 0, 0, 0)]
    ledger.accept(take(ledger), SHARDS, 0.0)
    claims = [take(ledger), take(ledger)]
    ledger.deliver(claims[0], [result(1), result(2, ok=False)], 0.0, LEASE_S)
    assert ledger.progress(1.0) == [BatchProgress("batch_1", 0.0, True, 1, 2, 1, 1)]
    assert ledger.progress(LEASE_S + 1)[0].waiting == 3
    ledger.deliver(claims[1], [result(3), result(4)], 0.0, LEASE_S)
    ledger.deliver(take(ledger), [result(5)], 0.0, LEASE_S)
    assert ledger.progress(1.0) == [BatchProgress("batch_1", 0.0, False, 0, 0, 4, 1)]
    ledger.complete(take(ledger), None, None, 0.0)
    assert not ledger.progress(1.0)


def test_a_deleted_batch_takes_its_work_along(ledger: SqlLedger) -> None:
    """Its workers lose their claims; another tenant cannot delete it."""
    begin(ledger)
    claim = take(ledger)
    assert not ledger.delete_batch("other", "batch_1")
    assert ledger.delete_batch("acme", "batch_1") == ["file-1"]
    with pytest.raises(ClaimLost):
        ledger.deliver(claim, [result(1)], 0.0, LEASE_S)
    assert ledger.claim("w", 99.0, LEASE_S) is None
    assert ledger.find_batch("acme", "batch_1") is None


def test_an_event_goes_to_one_sender_at_a_time(ledger: SqlLedger) -> None:
    """A sender whose lease has ended can neither forget nor postpone it."""
    notices = SqlNotices(ledger)
    put(ledger)
    notice = Notice("evt_1", "main", "acme", "batch.failed", "{}", 5.0)
    ledger.reject(take(ledger), [], 5.0, lambda status: [notice, replace(notice, hook="other")])
    assert notices.claim({"main"}, 4.0, LEASE_S) is None
    first = notices.claim({"main"}, 5.0, LEASE_S)
    assert first == NoticeClaim(notice, 1)
    assert notices.claim({"main"}, 14.0, LEASE_S) is None
    second = notices.claim({"main"}, 15.0, LEASE_S)
    assert second == NoticeClaim(notice, 2)
    notices.postpone(first, 0.0)
    assert not notices.settle(first)
    assert notices.waiting() == {"main": WaitingEvents(1, 5.0), "other": WaitingEvents(1, 5.0)}
    notices.postpone(second, 40.0)
    assert notices.claim({"main"}, 39.0, LEASE_S) is None
    third = notices.claim({"main"}, 40.0, LEASE_S)
    assert third is not None
    assert notices.settle(third)
    assert notices.waiting() == {"other": WaitingEvents(1, 5.0)}
    ledger.forget(6.0)
    assert not notices.waiting()


def test_many_senders_claim_each_event_once(ledger: SqlLedger) -> None:
    """Whatever the database does at the same time."""
    notices = SqlNotices(ledger)
    for number in range(12):
        put(ledger, f"batch_{number}")
        event = Notice(f"evt_{number}", "main", "acme", "batch.failed", "{}", 0.0)
        ledger.reject(take(ledger), [], 0.0, lambda status, event=event: [event])
    found: list[str] = []

    def claim() -> None:
        misses = 0
        while misses < 3:
            claim = notices.claim({"main"}, 0.0, LEASE_S)
            if claim is None:
                misses += 1
            else:
                found.append(claim.notice.event_id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"evt_{number}" for number in range(12))


def test_tenants_take_turns(ledger: SqlLedger) -> None:
    """A big batch of one tenant does not keep another tenant's batch waiting."""
    put(ledger, "batch_1", "acme")
    put(ledger, "batch_2", "other")
    for claim in (take(ledger), take(ledger)):
        ledger.accept(claim, SHARDS, 0.0)
    order = [take(ledger).batch_id for _ in range(6)]
    assert sorted(order[:2]) == sorted(order[2:4]) == ["batch_1", "batch_2"]


def test_files_are_kept_apart_by_tenant(ledger: SqlLedger) -> None:
    """Lists go on after a file; a file that a running batch reads stays."""
    for number in range(5):
        ledger.add_file(StoredFile(f"file-{number}", "acme", "batch", "n", 10, float(number)))
    ledger.add_file(StoredFile("file-x", "other", "batch", "n", 7, 9.0))
    assert (ledger.used_bytes("acme"), ledger.used_bytes("other")) == (50, 7)
    listed = ledger.list_files("acme", purpose=None, after="file-3", limit=2, newest=True)
    assert [file.file_id for file in listed] == ["file-2", "file-1"]
    listed = ledger.list_files("acme", purpose="batch", after="file-3", limit=2, newest=False)
    assert [file.file_id for file in listed] == ["file-4"]
    put(ledger)
    assert not ledger.delete_file("acme", "file-1")
    assert not ledger.delete_file("acme", "file-x")
    assert ledger.delete_file("acme", "file-2")
    assert ledger.find_file("acme", "file-2") is None
    assert ledger.forget(99.0) == ["file-0", "file-3", "file-4", "file-x"]
    assert ledger.find_file("acme", "file-1") is not None


def test_many_workers_claim_each_piece_once(ledger: SqlLedger) -> None:
    """Whatever the database does at the same time."""
    begin(ledger)
    found: list[WorkClaim] = []

    def claim() -> None:
        while (claim := ledger.claim("w", 0.0, LEASE_S)) is not None:
            found.append(claim)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.shard.number for claim in found) == [0, 1, 2]


def test_two_workers_that_end_at_once_end_the_batch(ledger: SqlLedger) -> None:
    """The last two shards are delivered at the same time, again and again."""
    for number in range(10):
        begin(ledger, f"batch_{number}")
        claims = [take(ledger) for _ in SHARDS]

        def deliver(claim: WorkClaim) -> None:
            lines = range(claim.shard.line, claim.shard.line + claim.shard.lines)
            ledger.deliver(claim, [result(line) for line in lines], 0.0, LEASE_S)

        threads = [threading.Thread(target=deliver, args=(claim,)) for claim in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.read_batch(f"batch_{number}").status == BatchStatus.FINALIZING
        ledger.complete(take(ledger), None, None, 0.0)


def test_a_database_that_is_gone_is_named(tmp_path: Path) -> None:
    """The error says what the database says."""
    with pytest.raises(LedgerUnavailable, match="unable to open"):
        SqlLedger(f"sqlite:///{tmp_path}/nowhere/ledger.sqlite")


STEP = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 2)),
    st.tuples(st.just("deliver"), st.integers(0, 2), st.sets(st.integers(1, 5), max_size=3)),
    st.tuples(st.just("pass"), st.floats(0, 2 * LEASE_S)),
    st.tuples(st.just("cancel")),
)


@given(steps=st.lists(STEP, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_claims_exclude_each_other(tmp_path: Path, steps: list[tuple[object, ...]]) -> None:
    """At no time do two workers hold the same work, and the first result of a line stays."""
    ledger = SqlLedger("sqlite://")
    begin(ledger)
    now, held = 0.0, dict[int, WorkClaim]()
    kept: dict[int, bytes] = {}
    for number, step in enumerate(steps):
        if step[0] == "claim":
            claim = ledger.claim(f"w{step[1]}", now, LEASE_S)
            if claim is not None:
                held[int(str(step[1]))] = claim
        elif step[0] == "deliver":
            claim = held.get(int(str(step[1])))
            if claim is not None and claim.job is Job.LINES:
                first, last = claim.shard.line, claim.shard.line + claim.shard.lines
                assert isinstance(step[2], set)
                results = [result(line, b"%d" % number) for line in step[2] if first <= line < last]
                newer = any(
                    (other.job, other.shard) == (claim.job, claim.shard)
                    and other.fence > claim.fence
                    for other in held.values()
                )
                try:
                    ledger.deliver(claim, results, now, LEASE_S)
                except ClaimLost:
                    continue
                assert not newer, "a lost claim delivered"
                for one in results:
                    kept.setdefault(one.line, one.document)
        elif step[0] == "pass":
            now += float(str(step[1]))
        else:
            ledger.cancel("acme", "batch_1", now)
    assert dict(ledger.results("batch_1", ok=True)) == kept
    batch = ledger.read_batch("batch_1")
    assert batch.completed == len(kept)
    assert (batch.status == "finalizing") == (len(kept) == 5 and batch.status != "cancelling")
    ledger.close()
