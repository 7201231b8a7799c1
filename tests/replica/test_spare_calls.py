"""What a replica reports for autoscaling while lines of batches run beside the calls of clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from serve_app.autoscaling.demand import EngineSignals
from serve_app.replica.meter import Meter
from serve_app.replica.spare_calls import SpareCalls

vllm_stats = pytest.importorskip("vllm.v1.metrics.stats")


@dataclass
class Detokenizer:
    tokens: int = 0

    def num_output_tokens(self) -> int:
        return self.tokens


@dataclass
class Request:
    """One request as the engine keeps it, with vLLM's own statistics."""

    prompt_len: int = 100
    request_index: int = 0
    detokenizer: Detokenizer | None = field(default_factory=Detokenizer)
    is_prefilling: bool = True
    stats: object = field(default_factory=vllm_stats.RequestStateStats)

    def write(self, tokens: int, first_token_s: float) -> None:
        assert self.detokenizer is not None
        self.detokenizer.tokens = tokens
        self.is_prefilling = False
        self.stats.first_token_latency = first_token_s  # type: ignore[attr-defined]


def exchange(*requests: Request) -> Meter:
    meter = Meter()
    for request in requests:
        meter.add(request)
    return meter


SIGNALS = EngineSignals(
    running=2,
    queued=0,
    kv_used_ratio=0.6,
    first_tokens=2,
    first_token_waits_s=9.5,
    finished=2,
    prompt_tokens=200,
    output_tokens=60,
)


def test_vllm_keeps_the_first_token_where_it_is_read() -> None:
    """An upgrade that moves it would make lines count as late calls."""
    assert vllm_stats.RequestStateStats().first_token_latency == 0.0


def test_clients_alone_are_reported_as_the_engine_counts_them() -> None:
    """Where there are no lines, nothing is left out."""
    calls, request = SpareCalls(), Request()
    calls.begin(meter := exchange(request), spare=False)
    request.write(20, first_token_s=0.5)
    assert calls.leave_out(SIGNALS) == SIGNALS
    calls.end(meter, whole=True)
    assert calls.leave_out(SIGNALS) == SIGNALS


def test_a_line_that_runs_is_left_out() -> None:
    """Its first token at once, and its part of the KV cache."""
    calls, client, line = SpareCalls(), Request(), Request()
    calls.begin(exchange(client), spare=False)
    calls.begin(exchange(line), spare=True)
    assert calls.leave_out(SIGNALS).first_tokens == 2
    client.write(20, first_token_s=0.5)
    line.write(260, first_token_s=9.0)
    told = calls.leave_out(SIGNALS)
    assert (told.first_tokens, told.first_token_waits_s) == (1, 0.5)
    assert told.kv_used_ratio == pytest.approx(0.6 * 120 / 480)
    assert (told.finished, told.prompt_tokens, told.output_tokens) == (2, 200, 60)


@pytest.mark.parametrize(("whole", "left_out"), [(True, (1, 100, 40)), (False, (0, 0, 0))])
def test_a_line_that_has_ended_stays_left_out(whole: bool, left_out: tuple[int, int, int]) -> None:
    """The engine counts an answer that was cut off as a first token only, and so it is left out."""
    calls, line = SpareCalls(), Request()
    calls.begin(meter := exchange(line), spare=True)
    line.write(40, first_token_s=9.0)
    calls.end(meter, whole=whole)
    told = calls.leave_out(SIGNALS)
    finished, prompt, output = left_out
    assert (told.first_tokens, told.first_token_waits_s) == (1, 0.5)
    assert told.finished == 2 - finished
    assert told.prompt_tokens == 200 - prompt
    assert told.output_tokens == 60 - output
    assert told.kv_used_ratio == 0.6


def test_an_engine_without_statistics_and_a_line_without_text() -> None:
    """What cannot be known is not left out; an embedding has no first token."""
    calls = SpareCalls()
    bare = SimpleNamespace(prompt_len=100, request_index=0, detokenizer=None)
    calls.begin(meter := exchange(bare), spare=True)  # type: ignore[arg-type]
    calls.end(meter, whole=True)
    told = calls.leave_out(SIGNALS)
    assert (told.first_tokens, told.finished, told.prompt_tokens) == (2, 1, 100)
