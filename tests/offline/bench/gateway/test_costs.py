"""The cost of a chunk and of a call, from what short and long answers cost."""

from __future__ import annotations

import pytest

from serve_app.offline.bench.gateway.costs import PartSpent, Run, build_grids, solve
from serve_app.offline.bench.gateway.recorded import DONE, LAST, ROLE, TOKENS, read_asked


def make_run(tokens: int, cpu_s: float, *, number: int = 0) -> Run:
    """A hundred calls, of `tokens` and three more chunks each."""
    spent = {"gateway": PartSpent(cpu_s, 0, 100 * (tokens + 3))}
    return Run("router", number, tokens, 100, 100 * (tokens + 3), 1.0, 2.0, 3.0, spent)


def test_slope_and_intercept() -> None:
    """The slope is the cost of a chunk, and the intercept the cost of a call."""
    # 500 us a call and 20 us a chunk.
    cost = solve("gateway", make_run(13, 0.1 * 0.82), make_run(97, 0.1 * 2.5))
    assert cost.chunk_us == pytest.approx(20)
    assert cost.call_us == pytest.approx(500)
    assert cost.chunks_per_core_s == pytest.approx(40_000)
    assert cost.writes_a_chunk == 1


def test_unfinished_rounds_do_not_count() -> None:
    """A round that lacks one of its lengths gives no row and no error."""
    runs = [make_run(13, 0.1), make_run(97, 0.25), make_run(13, 9.0, number=1)]
    (grid,) = build_grids(runs)
    assert len(grid.rows) == 1
    assert build_grids([]) == []


def test_recorded_answer_ends_as_vllm_ends_it() -> None:
    """A role, the tokens, the usage if the request asks for it, and the end."""
    body = b'{"stream":true,"max_tokens":3,"stream_options":{"include_usage":true}}'
    asked = read_asked(body)
    events = [asked.event(number) for number in range(asked.events)]
    assert events[:4] == [ROLE, TOKENS[1], TOKENS[0], LAST]
    assert b'"completion_tokens":3' in events[4]
    assert events[5:] == [DONE]
    assert read_asked(b'{"stream":true,"max_tokens":3}').events == 5
