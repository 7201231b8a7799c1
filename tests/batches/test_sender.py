"""Events of batches that have ended, to a receiver that OpenAI's client stands for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve_app.batches.gate import LineGate
from serve_app.batches.notices import Notice, WaitingEvents
from serve_app.batches.sender import AttemptEnd, NoticeSender
from serve_app.batches.store import BatchStore
from serve_app.batches.worker import BatchWorker
from tests.batches.fakes import FakeLineCalls, make_lines, open_store, put_batch, put_file
from tests.batches.receiver import SECRET, VARIABLE, Receiver, open_receiver, until

QUICK = {"pause_s": 0.02, "answer_s": 5.0}


class Clock:
    """A clock that a test can set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Place:
    """A store with a worker and senders, and what left the ledger."""

    store: BatchStore
    stack: AsyncExitStack
    clock: Clock = field(default_factory=Clock)
    ended: list[tuple[str, AttemptEnd, int, int | None]] = field(default_factory=list)
    senders: list[NoticeSender] = field(default_factory=list)
    _fates: Counter[tuple[str, AttemptEnd]] = field(default_factory=Counter)

    def hear(self, notice: Notice, tries: int, fate: AttemptEnd, status: int | None) -> None:
        self.ended.append((notice.hook, fate, tries, status))

    def send(self) -> NoticeSender:
        sender = NoticeSender(lambda: self.store, self.hear, self.clock, poll_s=0.02)
        sender.start()
        self.stack.push_async_callback(sender.close)
        self.senders.append(sender)
        return sender

    def work(self) -> None:
        calls = FakeLineCalls()
        worker = BatchWorker("r1", lambda: self.store, calls, LineGate(lambda: False), self.clock)
        worker.start()
        self.stack.push_async_callback(worker.close)

    def batch(self, name: str = "batch_1", lines: int = 1, **values: Any) -> None:
        content = make_lines(lines)
        put_batch(self.store, put_file(self.store, content, f"file-{name}"), name, **values)

    @property
    def fates(self) -> Counter[tuple[str, AttemptEnd]]:
        for sender in self.senders:
            self._fates += sender.take()
        return self._fates


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as running:
        yield running


class Places:
    """Opens places, and closes them when the test ends."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._directory, self._stack = directory, stack

    def open(self, *hooks: dict[str, Any], **delivery: Any) -> Place:
        keys = {"webhooks": hooks, "delivery": {**QUICK, **delivery}, "lease_s": 0.3}
        store = open_store(self._directory, **keys)
        self._stack.push_async_callback(store.close)
        return Place(store, self._stack)


@pytest.fixture
async def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Places]:
    monkeypatch.setenv(VARIABLE, SECRET)
    async with AsyncExitStack() as stack:
        yield Places(tmp_path, stack)


async def test_a_completed_batch_is_told(places: Places, receiver: Receiver) -> None:
    """The event has OpenAI's form, a signature that OpenAI's client accepts, and the batch's id."""
    place = places.open(receiver.hook())
    place.batch("batch_7")
    place.work()
    place.send()
    await until(lambda: bool(place.ended))
    [request] = receiver.requests
    event = request.unwrap()
    assert (event.id, event.type, event.object) == ("evt_7", "batch.completed", "event")
    assert event.data.id == "batch_7"
    assert event.created_at == int(place.store.ledger.read_batch("batch_7").began_at["completed"])
    assert request.event_id == event.id
    assert place.ended == [("main", AttemptEnd.DELIVERED, 1, 200)]
    assert place.store.notices.waiting() == {}


async def test_every_end_has_its_event(places: Places, receiver: Receiver) -> None:
    """A file with a fault, a cancelled batch, and one that is out of time."""
    place = places.open(receiver.hook())
    store = place.store
    store.files.delete(put_file(store, b"", "file-gone"))
    put_batch(store, "file-gone", "batch_1")
    place.batch("batch_2")
    store.ledger.cancel("acme", "batch_2", 1.0)
    place.batch("batch_3", expires_at=2.0)
    store.ledger.expire(2.0)
    place.work()
    place.send()
    await receiver.has(3)
    events = {one.unwrap().data.id: one.unwrap().type for one in receiver.requests}
    assert events == {
        "batch_1": "batch.failed",
        "batch_2": "batch.cancelled",
        "batch_3": "batch.expired",
    }


async def test_a_receiver_that_fails_is_tried_again(places: Places, receiver: Receiver) -> None:
    """With the same id and body, and a signature of the time of the attempt."""
    receiver.script = [500, 404, 302, 429]
    receiver.answer_headers = {"location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    place = places.open(receiver.hook())
    place.batch()
    place.work()
    place.send()
    await until(lambda: bool(place.ended))
    assert len({(one.event_id, one.body) for one in receiver.requests}) == 1
    assert [one.unwrap().type for one in receiver.requests] == ["batch.completed"] * 5
    assert place.ended == [("main", AttemptEnd.DELIVERED, 5, 200)]
    assert place.fates == {("main", AttemptEnd.RETRIED): 4, ("main", AttemptEnd.DELIVERED): 1}


async def test_a_busy_receiver_says_when_to_come_back(places: Places, receiver: Receiver) -> None:
    """`Retry-After` is longer than the pause, and is kept."""
    receiver.script, receiver.answer_headers = [503], {"retry-after": "600"}
    place = places.open(receiver.hook())
    place.batch()
    place.work()
    place.send()
    await until(lambda: place.fates[("main", AttemptEnd.RETRIED)] == 1)
    assert len(receiver.requests) == 1
    place.clock.ahead_s = 599
    claim = place.store.notices.claim({"main"}, place.clock() - 10, 1.0)
    assert claim is None
    place.clock.ahead_s = 601
    await until(lambda: bool(place.ended))
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(("status", "requests"), [(410, 1), (500, 2)])
async def test_an_event_is_given_up(
    places: Places, receiver: Receiver, status: int, requests: int
) -> None:
    """At once where the receiver says that it will never take it, otherwise when time is up."""
    receiver.script = [status] * 9
    place = places.open(receiver.hook(), give_up_s=3600.0, pause_s=3600.0)
    place.batch()
    place.work()
    place.send()
    await receiver.has(1)
    if requests == 2:
        await until(lambda: place.fates[("main", AttemptEnd.RETRIED)] == 1)
        place.clock.ahead_s = 3599
    await until(lambda: bool(place.ended))
    assert place.ended == [("main", AttemptEnd.GIVEN_UP, requests, status)]
    assert place.store.notices.waiting() == {}


async def test_a_silent_receiver_holds_up_no_other(places: Places, receiver: Receiver) -> None:
    """Batches end, and the other receiver hears of each of them."""
    async with open_receiver() as silent:
        silent.silent = True
        place = places.open(receiver.hook(), silent.hook(name="silent"), at_once=2, answer_s=60)
        for number in range(6):
            place.batch(f"batch_{number}")
        place.work()
        sender = place.send()
        await receiver.has(6)
        assert len(silent.requests) == 2
        assert {one.event_id for one in receiver.requests} == {f"evt_{n}" for n in range(6)}
        assert place.store.notices.waiting()["silent"].count == 6
        await sender.close()
        again = place.send()
        silent.silent = False
        await until(lambda: place.fates[("silent", AttemptEnd.DELIVERED)] == 6)
        await again.close()


async def test_a_receiver_gets_what_it_asks_for(places: Places, receiver: Receiver) -> None:
    """By the kind of event, and by tenant; a batch is told to every receiver that asks."""
    place = places.open(
        receiver.hook(name="a", events=["batch.completed"]),
        receiver.hook(name="b", events=["batch.failed"]),
        receiver.hook(name="c", tenants=["acme", "other"]),
        receiver.hook(name="d", tenants=["other"]),
    )
    place.batch()
    place.work()
    place.send()
    await until(lambda: len(place.ended) == 2)
    assert sorted(name for name, *_ in place.ended) == ["a", "c"]
    assert not place.store.notices.waiting()


async def test_both_secrets_sign_while_one_replaces_the_other(
    places: Places, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that knows either of them accepts the event."""
    old = "whsec_" + "b2xkIHNlY3JldCBvZiB0aGUgdGVzdHMsIDMyIGJ5dGVzIQ=="
    monkeypatch.setenv("OLD", old)
    place = places.open(receiver.hook(old_secret={"variable": "OLD"}))
    place.batch()
    place.work()
    place.send()
    await receiver.has(1)
    assert receiver.requests[0].unwrap(old) == receiver.requests[0].unwrap(SECRET)


async def test_without_receivers_nothing_is_kept(places: Places) -> None:
    """A batch that ends leaves no event behind."""
    place = places.open()
    place.batch()
    place.work()
    await until(lambda: place.store.ledger.read_batch("batch_1").status.ended)
    assert place.store.notices.waiting() == {}


async def test_what_waits_is_counted(places: Places, receiver: Receiver) -> None:
    """By receiver, with the age of the oldest event; a receiver that has all of them has none."""
    receiver.script = [500]
    place = places.open(receiver.hook(), receiver.hook(name="idle", tenants=["x"]), pause_s=600)
    place.batch()
    place.work()
    await until(lambda: bool(place.store.notices.waiting()))
    sender = place.send()
    await until(lambda: bool(sender.waiting))
    created_at = place.store.ledger.read_batch("batch_1").began_at["completed"]
    assert sender.waiting == {
        "main": WaitingEvents(1, pytest.approx(created_at, abs=1)),
        "idle": WaitingEvents(0, 0.0),
    }
