"""When the record of a call is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serve_app.core.call import Endpoint, Record
from serve_app.observe.recorder import CallRecorder


class Kept:
    """Takes the place of metrics and access log."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        self.records.append(record)

    def flush(self, leases: Mapping[str, Any] | None = None) -> None:
        pass


async def test_a_record_waits_for_the_usage_of_what_was_cut_off() -> None:
    """The replica tells it after the client has gone; metrics and log have it all the same."""
    kept = Kept()
    recorder = CallRecorder(kept, Kept(), {})  # type: ignore[arg-type]  # the parts that count
    record = Record("id", Endpoint.CHAT, stream=True)
    told: list[asyncio.Future[None]] = [asyncio.Future(), asyncio.Future()]
    record.settling.extend(told)
    recorder.finish(record)
    told[1].set_result(None)
    await asyncio.sleep(0)
    recorder.flush()
    assert kept.records == []
    record.usage.completion_tokens = 42
    told[0].set_result(None)
    await asyncio.sleep(0)
    recorder.flush()
    assert [each.usage.completion_tokens for each in kept.records] == [42]
    assert recorder._task is not None
    recorder._task.cancel()
