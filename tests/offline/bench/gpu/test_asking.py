"""What is asked of a server, and what is made of its answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.offline.bench.bench_errors import RequestsFailed, ServerEnded, ServerNotReady
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.gpu.asking import Server, Stream
from serve_app.offline.bench.ownership import Owned, owned
from serve_app.offline.bench.phase import Phase
from tests.offline.bench.fakes import (
    STREAM,
    FakeServer,
    make_phase,
    render_chunked,
    render_whole,
    running,
)

ANSWER = render_whole(b'{"usage": {"prompt_tokens": 41}}')
ERROR = render_whole(b'{"error": {}}', "503 Service Unavailable")
STREAMED = render_chunked(STREAM)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Owned]:
    """A process that stands for the server's."""
    code = "import time; time.sleep(60)"
    with owned("fake", [sys.executable, "-c", code], {}, tmp_path / "log") as running_one:
        yield running_one


def server(process: Owned, port: int) -> Server:
    return Server(process, "bare", port, time.monotonic())


def drive(process: Owned, port: int, phase: Phase) -> Stream:
    with run_load_generator() as generator:
        return server(process, port).stream("fast", phase, generator)


async def test_a_batch_of_streams(process: Owned) -> None:
    """The prompt is counted by the server; rates and times come from the window."""
    async with running(FakeServer([ANSWER], [STREAMED])) as fake:
        found = await asyncio.to_thread(drive, process, fake.port, make_phase(0))
    assert (found.server, found.tier, found.batch, found.prompt_tokens) == ("bare", "fast", 2, 41)
    assert found.requests > 0
    assert found.tokens_per_s > 0
    assert 0 < found.ttft_p50_ms <= found.ttft_p99_ms <= found.total_p99_ms
    assert found.step_p50_ms >= 0
    assert found.elsewhere_ratio >= 0


async def test_a_failed_stream_fails_the_step(process: Owned) -> None:
    """A server that refuses has not carried the load."""
    async with running(FakeServer([ANSWER], [ERROR])) as fake:
        with pytest.raises(RequestsFailed, match="status 503"):
            await asyncio.to_thread(drive, process, fake.port, make_phase(0))


async def test_a_prompt_is_timed(process: Owned) -> None:
    """Each time with other tokens, so that no cache can stand in for the model."""
    async with running(FakeServer([ANSWER])) as fake:
        bare = server(process, fake.port)
        found = await asyncio.to_thread(bare.prefill, "fast", "m", 100)
    assert found.ms > 0
    assert found.prompt_tokens == 100
    assert len(set(fake.requests)) == 4


async def test_ready_is_who_answers(process: Owned) -> None:
    """Refusals are waited out; who never answers is named with what it wrote."""
    async with running(FakeServer([ERROR], [ANSWER])) as fake:
        await asyncio.to_thread(server(process, fake.port).wait_answers, "m", 30.0)
        assert len(fake.requests) == 2
    with pytest.raises(ServerNotReady, match=r"bare \(m\)"):
        server(process, 1).wait_answers("m", 0.01)


def test_a_server_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    """Its log says why."""
    code = "print('out of memory')"
    command = [sys.executable, "-c", code]
    with (
        owned("fake", command, {}, tmp_path / "log") as process,
        pytest.raises(ServerEnded, match="out of memory"),
    ):
        server(process, 1).wait_answers("m", 60.0)
