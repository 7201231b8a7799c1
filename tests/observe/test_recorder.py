"""Records of ended calls on their way to metrics and the access log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serve_app.core.call import Endpoint, Record
from serve_app.observe.access_log import AccessLog
from serve_app.observe.metrics import CallMetrics
from serve_app.observe.recorder import CallRecorder


class FakeAccessLog(AccessLog):
    """Keeps what it is to write, on a disk that answers when it is allowed to."""

    def __init__(self) -> None:
        super().__init__(None)
        self.written: list[str] = []
        self.fails = False
        self.threads: set[int] = set()
        self.disk = threading.Event()
        self.disk.set()

    def write(self, records: Sequence[Record]) -> None:
        self.threads.add(threading.get_ident())
        self.disk.wait(5)
        if self.fails:
            raise OSError("no space left")
        self.written.extend(record.request_id for record in records)


def record(number: int) -> Record:
    return Record(str(number), Endpoint.CHAT, stream=False)


def build(log: FakeAccessLog) -> CallRecorder:
    return CallRecorder(CallMetrics(), log, {}, flush_s=0.01)


async def until(log: FakeAccessLog, count: int) -> None:
    async with asyncio.timeout(5):
        while len(log.written) < count:
            await asyncio.sleep(0.005)


async def test_a_slow_disk_does_not_hold_the_loop() -> None:
    """Lines are written by another thread, in order, also while more calls end."""
    log = FakeAccessLog()
    log.disk.clear()
    recorder = build(log)
    for number in range(3):
        recorder.finish(record(number))
        await asyncio.sleep(0.02)
    assert log.written == []
    log.disk.set()
    await until(log, 3)
    assert log.written == ["0", "1", "2"]
    assert threading.get_ident() not in log.threads
    assert len(log.threads) == 1
    await recorder.close()


async def test_an_idle_router_reports() -> None:
    """No call yet is no reason to take it for missing, as the alert for it would."""
    reported = asyncio.Event()
    log = FakeAccessLog()
    recorder = CallRecorder(CallMetrics(), log, {}, [reported.set], flush_s=0.01)
    recorder.start()
    async with asyncio.timeout(5):
        await reported.wait()
    await recorder.close()


async def test_the_rest_is_written_at_the_end() -> None:
    """After what a thread is still writing then, and once."""
    log = FakeAccessLog()
    recorder = build(log)
    log.disk.clear()
    recorder.finish(record(0))
    await asyncio.sleep(0.05)
    recorder.finish(record(1))
    asyncio.get_running_loop().call_later(0.02, log.disk.set)
    await recorder.close()
    assert log.written == ["0", "1"]


async def test_a_full_disk_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, and the next lines are tried again."""
    log = FakeAccessLog()
    log.fails = True
    recorder = build(log)
    recorder.finish(record(0))
    async with asyncio.timeout(5):
        while "could not be written" not in caplog.text:
            await asyncio.sleep(0.005)
    log.fails = False
    recorder.finish(record(1))
    await until(log, 1)
    assert log.written == ["1"]
    await recorder.close()


async def test_a_record_waits_for_the_usage_of_what_was_cut_off() -> None:
    """The replica tells it after the client has gone; metrics and log have it all the same."""
    log = FakeAccessLog()
    recorder = build(log)
    left = record(0)
    told: list[asyncio.Future[None]] = [asyncio.Future(), asyncio.Future()]
    left.settling.extend(told)
    recorder.finish(left)
    told[1].set_result(None)
    await asyncio.sleep(0)
    await recorder.flush()
    assert log.written == []
    asyncio.get_running_loop().call_later(0.02, told[0].set_result, None)
    await recorder.close()
    assert log.written == ["0"]


async def test_a_usage_that_is_never_told_holds_up_no_end() -> None:
    """The Router ends without the record's last numbers, but not without its record."""
    log = FakeAccessLog()
    recorder = CallRecorder(CallMetrics(), log, {}, settle_s=0.02)
    left = record(0)
    left.settling.append(asyncio.Future())
    recorder.finish(left)
    await recorder.close()
    assert log.written == ["0"]
