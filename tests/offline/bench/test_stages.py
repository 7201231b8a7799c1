"""Where the time of a call goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.core.call import Endpoint, Record
from serve_app.core.trace import ExchangeTrace, Trace
from serve_app.observe.access_log import render_line
from serve_app.offline.bench.phase import Outcome
from serve_app.offline.bench.stages import STAGES, split_call, time_stages, wait_for_lines

ARRIVED_AT = 1_700_000_000.0


def make_line(request_id: str = "bench-1", *, total_s: float = 0.1) -> dict[str, object]:
    """What a Router logs of a call with 1, 2, 3 and 4 ms until the head of its answer."""
    noted = ARRIVED_AT + 0.001
    exchange = ExchangeTrace("fast", "b", noted + 0.002, noted + 0.005, noted + 0.009)
    trace = Trace("a", "b", None, sampled=False, received_at=noted, decided_at=noted + 0.002)
    trace.exchanges.append(exchange)
    record = Record(request_id, Endpoint.CHAT, True, ARRIVED_AT, total_s=total_s, trace=trace)
    return render_line(record)


def test_the_stages_add_up_to_what_the_client_waited() -> None:
    """There is no gap between them, whichever clock they came from."""
    sent_at, done_at = ARRIVED_AT - 0.005, ARRIVED_AT + 0.107
    stages = split_call(make_line(), sent_at, ARRIVED_AT + 0.03, done_at)
    assert stages == pytest.approx([5, 1, 2, 3, 4, 20, 70, 7], abs=0.01)
    assert sum(stages) == pytest.approx(1000 * (done_at - sent_at))


def test_a_whole_answer_has_no_first_chunk() -> None:
    """Its body begins with its head."""
    stages = split_call(make_line(), ARRIVED_AT, None, ARRIVED_AT + 0.1)
    assert dict(zip(STAGES, stages, strict=True))["first chunk"] == 0


def test_the_slowest_calls_are_shown_apart() -> None:
    """The stage that makes the tail is the one that is long in the slowest hundredth."""
    ids = [f"bench-{number}" for number in range(100)]
    lines = {name: make_line(name) for name in ids}
    lines[ids[7]] = make_line(ids[7], total_s=0.9)
    total_s = [0.9 if name == ids[7] else 0.1 for name in ids]
    outcome = Outcome(ids, [ARRIVED_AT] * 100, [0.01] * 100, total_s, errors={}, window_s=1.0)
    stages = time_stages(outcome, lines, stream=True)
    assert stages["body"].slowest_ms == pytest.approx(890, abs=0.1)
    assert stages["body"].p50_ms == pytest.approx(90, abs=0.1)
    assert sum(stages["body"].counts) == 100
    assert stages["body"].counts[-1] == 1


def test_calls_that_are_not_logged_are_left_out() -> None:
    """A Router that notes no stages gives no table."""
    outcome = Outcome(["bench-1"], [ARRIVED_AT], [0.01], [0.1], errors={}, window_s=1.0)
    assert time_stages(outcome, {}, stream=True) == {}


def test_lines_of_all_routers_are_found(tmp_path: Path) -> None:
    """A line that is still being written does not count."""
    logs = tmp_path / "ray" / "session_1" / "logs" / "serve"
    logs.mkdir(parents=True)
    for name in ("one", "two"):
        line = json.dumps(make_line(f"bench-{name}"))
        (logs / f"access_{name}.jsonl").write_text(line + '\n{"request_id": "ben')
    lines = wait_for_lines(tmp_path, ["bench-one", "bench-three"], wait_s=0.0)
    assert set(lines) == {"bench-one", "bench-two"}
