"""Where the time of a call goes: the client's times beside those that a Router noted of the call.

The stages follow each other without a gap, so their sum is what the client waited:

front        from the client's first byte to the Router: HAProxy, and the wait for the Router's loop
receive      the Router reads and parses the body
decide       the score, the choice of the tier, the limits
lease        until the call has its place on a replica, attempts that failed included
head         from there to the head of the engine's answer
first chunk  from the head to the first event at the client; whole answers have none
body         from there until the Router has sent the last byte
farewell     from there until the client has the last byte
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson

from serve_app.offline.bench.phase import Outcome
from serve_app.offline.bench.summary import StageTimes, percentile

STAGES = ("front", "receive", "decide", "lease", "head", "first chunk", "body", "farewell")
BOUNDS_MS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_LOGS = "ray/session_*/logs/serve/access_*.jsonl"
_POLL_S = 0.25
_LOGGED_S = 5.0
"""Routers write their access logs once a second."""

Line = Mapping[str, Any]


def wait_for_lines(
    scratch: Path, request_ids: Sequence[str], wait_s: float = _LOGGED_S
) -> Mapping[str, Line]:
    """The lines of the access logs by request; after `wait_s` only those that are there."""
    deadline = time.monotonic() + wait_s
    while True:
        lines = {line["request_id"]: line for line in _read_lines(scratch)}
        if time.monotonic() >= deadline or lines.keys() >= set(request_ids):
            return lines
        time.sleep(_POLL_S)


def _read_lines(scratch: Path) -> Iterable[Line]:
    for path in scratch.glob(_LOGS):
        # A line that is being written is not whole yet.
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield orjson.loads(line)


def time_stages(
    outcome: Outcome, lines: Mapping[str, Line], *, stream: bool
) -> Mapping[str, StageTimes]:
    """The stages of the calls that a Router has logged; empty if it logged none."""
    calls = []
    for request_id, sent_at, first_s, total_s in zip(
        outcome.request_ids, outcome.sent_at, outcome.first_event_s, outcome.total_s, strict=True
    ):
        line = lines.get(request_id)
        if line is not None and line.get("head_ms") is not None:
            first_at = sent_at + first_s if stream else None
            calls.append(split_call(line, sent_at, first_at, sent_at + total_s))
    return _sum_up(calls) if calls else {}


def split_call(
    line: Line, sent_at: float, first_at: float | None, done_at: float
) -> Sequence[float]:
    """Milliseconds of each stage of one call; the times are the client's, in Unix seconds."""
    inner = [line["receive_ms"], line["decide_ms"], line["lease_ms"], line["head_ms"]]
    head_at = line["arrived_at"] + sum(inner) / 1000
    first_at = head_at if first_at is None else first_at
    ended_at = line["arrived_at"] + line["total_ms"] / 1000
    outer = [first_at - head_at, ended_at - first_at, done_at - ended_at]
    return [1000 * (line["arrived_at"] - sent_at), *inner, *(1000 * part for part in outer)]


def _sum_up(calls: Sequence[Sequence[float]]) -> Mapping[str, StageTimes]:
    by_total = sorted(calls, key=sum)
    slowest = by_total[-math.ceil(len(calls) / 100) :]
    return {
        stage: StageTimes(
            p50_ms=percentile(values, 0.5),
            p99_ms=percentile(values, 0.99),
            mean_ms=fmean(values),
            slowest_ms=fmean(call[index] for call in slowest),
            counts=_count(values),
        )
        for index, stage in enumerate(STAGES)
        if (values := [call[index] for call in calls])
    }


def _count(values: Sequence[float]) -> Sequence[int]:
    counts = [0] * (len(BOUNDS_MS) + 1)
    for value in values:
        counts[bisect_right(BOUNDS_MS, value)] += 1
    return counts
