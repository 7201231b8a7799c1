"""The bench of a batch beside chat, without a service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from serve_app.batches.lines import parse_line
from serve_app.config.app import AppConfig
from serve_app.offline.bench.batch_beside_chat import (
    BATCH,
    BOTH,
    CHAT,
    CHAT_TOKENS,
    ENDPOINT,
    LINES,
    LINES_BEGUN,
    Bench,
    Share,
    build_grid,
    build_lines,
    build_service,
    render_share,
)
from serve_app.offline.bench.bench_errors import BenchFailed, CallFailed, RequestsFailed
from serve_app.offline.bench.clocks import Clocks
from serve_app.offline.bench.phase import Outcome, Phase
from serve_app.offline.bench.targets import Place

PHASE = Phase("127.0.0.1", 80, "fast", 4, stream=True, output_tokens=32, warmup_s=0, window_s=0.02)


class FakeClients:
    """Clients whose calls begin after the same time."""

    def __init__(self, first_s: float, errors: dict[str, int] | None = None) -> None:
        self._first_s, self._errors = first_s, errors or {}
        self.serials: list[int] = []

    def run(
        self, phase: Phase, read_clocks: Callable[[], Clocks]
    ) -> tuple[Outcome, Clocks, Clocks]:
        self.serials.append(phase.first_serial)
        outcome = Outcome(
            ["a"] * 10, [0.0] * 10, [self._first_s] * 10, [1.0] * 10, self._errors, 2.0
        )
        return outcome, read_clocks(), read_clocks()


class FakeService:
    """Files and batches whose lines are answered by each look at them."""

    def __init__(self, lines_a_look: int = LINES_BEGUN) -> None:
        self._lines_a_look = lines_a_look
        self._done = 0
        self.asked: list[str] = []
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.url.path == "/v1/batches":
            self._done = 0
        self._done += self._lines_a_look
        counts = {"completed": min(LINES, self._done), "failed": 0, "total": LINES}
        batch = {"id": "x", "errors": None, "request_counts": counts}
        return httpx.Response(self.status, json=batch)

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self), base_url="http://test/v1")


def test_each_round_measures_all_three_and_ends_its_batches() -> None:
    """Chat alone without a batch; no prompt comes twice."""
    service, clients = FakeService(), FakeClients(0.05)
    shares = list(Bench(service.client(), clients, PHASE).run(2))
    assert [share.kind for share in shares] == [CHAT, BATCH, BOTH] * 2
    assert service.asked.count("POST /v1/batches/x/cancel") == 4
    assert len(set(clients.serials)) == len(clients.serials) == 5
    chat, batch, both = shares[:3]
    assert chat.tokens_per_s == chat.chat_tokens_per_s == 10 * CHAT_TOKENS / 2.0
    assert (batch.chat_tokens_per_s, list(batch.first_s)) == (0.0, [])
    assert both.tokens_per_s > both.chat_tokens_per_s == chat.chat_tokens_per_s


def test_a_batch_that_ends_too_soon_stops_the_bench() -> None:
    """It would seem slow; the batch is cancelled all the same."""
    service = FakeService(lines_a_look=LINES)
    with pytest.raises(BenchFailed, match="was to run on"):
        list(Bench(service.client(), FakeClients(0.05), PHASE).run(1))
    assert service.asked[-1] == "POST /v1/batches/x/cancel"


def test_what_a_service_refuses_stops_the_bench() -> None:
    """A failed call would make the rest look faster."""
    service = FakeService()
    with pytest.raises(RequestsFailed):
        list(Bench(service.client(), FakeClients(0.05, {"status 503": 1}), PHASE).run(1))
    service.status = 503
    with pytest.raises(CallFailed, match="/v1/files failed: status 503"):
        list(Bench(service.client(), FakeClients(0.05), PHASE).run(1))


def test_the_table_compares_with_each_alone() -> None:
    """Waits of all rounds together, and the median rate."""
    shares = [
        Share(CHAT, [0.1] * 19 + [0.2], 10, 0),
        Share(BATCH, [], 0, 100),
        Share(BOTH, [0.1] * 17 + [0.22] * 3, 9, 86),
        Share(BOTH, [0.1] * 20, 9, 90),
    ]
    grid = build_grid(shares)
    assert [row[0] for row in grid.rows] == [CHAT, BATCH, BOTH]
    assert list(grid.rows[1]) == [BATCH, "0", "-", "-", "-", "0", "100", "100", "1.00"]
    assert list(grid.rows[2])[1:] == ["40", "100", "220", "2.20", "9", "88", "97", "0.97"]
    assert render_share(shares[0]) == "chat alone: 10 tokens/s, p95 100 ms"


def test_the_lines_are_calls_of_a_batch() -> None:
    """Each is valid, and differs from the others at its beginning."""
    lines = build_lines("fast", 7).split(b"\n")
    bodies = {parse_line(line, 1, ENDPOINT).body for line in lines}
    assert len(bodies) == len(lines) == LINES


def test_the_service_is_a_valid_one(tmp_path: Path) -> None:
    """One tier that schedules by priority, and batches in a directory of the run."""
    target = build_service(Place(8000, tmp_path, tmp_path), concurrency=16)
    assert target.config is not None
    args: dict[str, Any] = orjson.loads(orjson.dumps(target.config))["applications"][0]["args"]
    config = AppConfig.model_validate(args)
    assert config.runtime.batches is not None
    assert config.runtime.batches.concurrency == 16
    assert config.tiers[0].engine["scheduling_policy"] == "priority"
