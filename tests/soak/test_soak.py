"""The verdict of `make soak`, and what it is made from."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import httpx
import pytest

from serve_app.offline.bench.machine import describe_machine
from tests.offline.bench.fakes import FakeServer, render_whole, running
from tests.soak.page import Run, by_minute, find_all, passed, render_page
from tests.soak.samples import MIB, Sample, by_process, name_part
from tests.soak.traffic import KINDS, Answer, Kind, Traffic, fill_body, is_broken
from tests.soak.verdict import LATENCY, MEMORY, Bound, Line, fit, settled

MINUTES = 30


def rising(first: float, last: float, count: int = 121) -> list[tuple[float, float]]:
    """A straight series over half an hour."""
    step = MINUTES * 60 / (count - 1)
    return [(i * step, first + (last - first) * i / (count - 1)) for i in range(count)]


def make_run(
    *, leak_mib: float = 0.0, slower_s: float = 0.0, wrong: dict[str, int] | None = None
) -> Run:
    """A run in which the Router's memory and the latency rise by so much in the second half."""
    samples = [
        Sample(at, "Router", 7, int((200 + (gained - 100)) * MIB), 300 * MIB, 40, 12)
        for (at, gained) in rising(100 - leak_mib, 100 + leak_mib)
    ]
    answers = [
        Answer("chat, auto, streamed", at, 200, first_s, first_s + 1)
        for at, first_s in rising(0.1 - slower_s, 0.1 + slower_s, 900)
    ]
    return Run(describe_machine(), MINUTES * 60, 8, by_process(samples), answers, wrong or {})


def test_the_warm_up_does_not_count() -> None:
    """A value that rises in the first half and is flat in the second one does not rise."""
    points = [(at, min(value, 150.0)) for at, value in rising(100, 200)]
    line = fit(points)
    assert line is not None
    assert line.rise == pytest.approx(0, abs=1e-9)
    assert settled(points)[0][0] == MINUTES * 30


def test_the_line_ends_at_the_last_point() -> None:
    """A straight series is its own line."""
    line = fit(rising(100, 200))
    assert line is not None
    assert (line.first, line.last) == (pytest.approx(150), pytest.approx(200))


def test_one_outlier_makes_no_leak() -> None:
    """A peak in the middle of the second half hardly turns the line."""
    points = rising(100, 100)
    points[90] = (points[90][0], 150.0)
    line = fit(points)
    assert line is not None
    assert MEMORY.holds(line)


def test_few_points_say_nothing() -> None:
    """No line, and no verdict, where the second half is too short."""
    assert fit(rising(1, 2, count=8)) is None
    assert fit([]) is None


@pytest.mark.parametrize(("last", "holds"), [(101.9, True), (102.1, False), (50, True)])
def test_memory_may_rise_by_two_percent(last: float, holds: bool) -> None:
    """The bound is a share of the value at half time; a fall is fine."""
    assert MEMORY.holds(Line(100 * MIB, last * MIB)) is holds


def test_small_numbers_may_rise_by_a_few() -> None:
    """A share of a small number would be less than one descriptor."""
    bound = Bound(0.02, rise_max=3)
    assert bound.holds(Line(20, 23))
    assert not bound.holds(Line(20, 24))


def test_a_value_from_nothing_has_no_share() -> None:
    """A rise from zero is infinite, unless the bound allows so much."""
    assert not MEMORY.holds(Line(0, 2 * MIB))
    assert LATENCY.holds(Line(0, 0.001))
    assert MEMORY.holds(Line(0, 0))


def test_a_flat_run_passes() -> None:
    """Every value has a finding that holds, and the page says so."""
    run = make_run()
    assert [finding.holds for finding in find_all(run)] == [True] * 5
    assert passed(run) is True
    assert "**Passed**" in render_page(run)


@pytest.mark.parametrize(
    "run",
    [make_run(leak_mib=5), make_run(slower_s=0.02), make_run(wrong={"chat: status 500": 1})],
    ids=["memory", "latency", "answers"],
)
def test_a_run_fails(run: Run) -> None:
    """A leak, a slower service and a wrong answer fail it, each alone."""
    assert passed(run) is False
    assert "**Failed**" in render_page(run)


def cut_series(run: Run, first: int, last: int, pid: int = 8) -> Run:
    """The run with one process more, which has only these samples."""
    [router] = run.series
    samples = [replace(each, pid=pid) for each in router.samples[first:last]]
    series = [*run.series, *by_process(samples)]
    return replace(run, series=series)


def test_a_process_that_ends_in_the_warm_up_does_not_count() -> None:
    """HAProxy is replaced when Routers start."""
    run = cut_series(make_run(), 0, 8)
    assert passed(run) is True
    assert len(find_all(run)) == 5


@pytest.mark.parametrize(("first", "last"), [(0, 100), (90, 121)])
def test_a_process_that_is_replaced_fails_the_run(first: int, last: int) -> None:
    """One that ends or begins in the second half has died, or was not there before."""
    run = cut_series(make_run(), first, last)
    assert passed(run) is False
    assert "**replaced**: Router" in render_page(run)


def test_a_short_run_has_no_verdict() -> None:
    """Two minutes try the command, and say nothing of leaks."""
    run = make_run()
    short = [series for series in run.series if series.part == "Router"]
    few = by_process([sample for each in short for sample in each.samples[:8]])
    assert passed(Run(run.machine, 120, 8, few, run.answers[:60], {})) is None


def test_minutes_hold_one_kind_of_call() -> None:
    """The mix cannot move the latency: only streams of chats that were answered count."""
    answers = [
        Answer("chat, auto, streamed", 10, 200, 0.1, 1),
        Answer("chat, auto, streamed", 70, 200, 0.2, 1),
        Answer("chat, auto, streamed", 71, 503, 9.0, 9),
        Answer("models", 72, 200, 9.0, 9),
    ]
    assert list(by_minute(answers)) == [(0, [0.1]), (60, [0.2])]


@pytest.mark.parametrize(
    ("title", "parent", "part"),
    [
        ("ray::ServeReplica:llm:Router.handle_request", "", "Router"),
        ("ray::ServeReplica:llm:tier-fast", "", "tier-fast, replica"),
        ("VLLM::EngineCore", "ray::ServeReplica:llm:tier-strong", "tier-strong, engine"),
        ("/tmp/x/haproxy.cfg -f /tmp/x/haproxy.cfg.amended", "", "HAProxy"),
        ("ray::IDLE", "", ""),
    ],
)
def test_processes_have_the_names_of_their_parts(title: str, parent: str, part: str) -> None:
    """Two engines have one title, so their replicas tell them apart."""
    assert name_part(title, parent) == part


def test_every_kind_can_be_sent() -> None:
    """Bodies with a question differ from call to call."""
    draw = random.Random(1)
    for kind in KINDS:
        body, next_body = fill_body(kind, draw), fill_body(kind, draw)
        assert bool(kind.asks) is (kind.asks in body)
        if kind.name != "too long":
            assert (body != next_body) is bool(kind.asks)


async def test_traffic_counts_what_is_wrong() -> None:
    """A status that a kind does not expect is named; the clients go on."""
    busy = [[render_whole(b"{}", "500 Internal Server Error")]] * 200
    async with running(FakeServer(*busy)) as server:
        traffic = Traffic(f"http://127.0.0.1:{server.port}", seed=1)
        await asyncio.wait_for(traffic.run(2, 0.5), 30)
    assert len(traffic.answers) > 2
    assert all("status 500" in what or "Error" in what for what in traffic.wrong)


@pytest.mark.parametrize(
    ("last", "broken"), [(b"data: [DONE]\n\n", False), (b"data: {}\n\n", True)]
)
def test_a_stream_must_end(last: bytes, broken: bool) -> None:
    """A chat's stream without its last event is cut off, whatever its status."""
    kind = Kind("chat", 1, "/v1/chat/completions")
    response = httpx.Response(200, headers={"content-type": "text/event-stream"})
    assert is_broken(kind, response, last) is broken
