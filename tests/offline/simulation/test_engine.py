"""The simulated engine, on cases that can be worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from serve_app.offline.simulation.engine import NEVER, EngineTiming, SimCall, SimEngine

# 10 ms a step whatever is in it; 1 ms for a prompt's token.
TIMING = EngineTiming(
    weights_s=0.01,
    token_s=0.001,
    context_token_s=0.0,
    overhead_s=0.0,
    chunk_tokens=1000,
    kv_tokens=10_000,
    sequences_max=4,
)


def run_out(engine: SimEngine) -> dict[SimCall, float]:
    """Runs until nothing is left; when each call ended."""
    ended = {}
    while (at_s := engine.next_event_s()) < NEVER:
        for call in engine.run(at_s):
            ended[call] = at_s
    return ended


def test_one_call_alone() -> None:
    """A prompt of 100 takes 100 ms and the step it rides in; 50 more tokens take 50 steps."""
    engine = SimEngine(TIMING, 0.0)
    call = SimCall(0.0, 100, 51)
    engine.add(call, 0.0)
    ended = run_out(engine)
    assert call.first_token_s == pytest.approx(0.11)
    assert ended[call] == pytest.approx(0.11 + 50 * 0.01)
    assert (engine.finished, engine.prompt_tokens, engine.output_tokens) == (1, 100, 51)
    assert engine.kv_used_ratio == 0.0


def test_prompts_are_read_one_after_another() -> None:
    """First come, first served; a waiting one takes up no time of its own."""
    engine = SimEngine(TIMING, 0.0)
    calls = [SimCall(0.0, 100, 1) for _ in range(3)]
    for call in calls:
        engine.add(call, 0.0)
    run_out(engine)
    assert [call.first_token_s for call in calls] == pytest.approx([0.11, 0.22, 0.33])


def test_a_prompt_slows_those_who_run() -> None:
    """They get one token a chunk: none but that one while a prompt of one chunk is read."""
    engine = SimEngine(TIMING, 0.0)
    first = SimCall(0.0, 100, 51)
    engine.add(first, 0.0)
    while engine.next_event_s() < 0.31:
        engine.run(engine.next_event_s())
    engine.add(SimCall(0.31, 990, 1), 0.31)
    ended = run_out(engine)
    # 20 tokens by 0.31 s, one within the second of the prompt, then the 29 that are left.
    assert ended[first] == pytest.approx(0.31 + 1.0 + 29 * 0.01)


def test_sequences_and_cache_bound_who_is_served() -> None:
    """The fifth of five waits for a sequence, and whoever the cache cannot hold, for that."""
    engine = SimEngine(TIMING, 0.0)
    for _ in range(5):
        engine.add(SimCall(0.0, 10, 100), 0.0)
    assert (engine.running, len(engine.waiting)) == (4, 1)
    engine = SimEngine(TIMING, 0.0)
    long = [SimCall(0.0, 5900, 100), SimCall(0.0, 5900, 100)]
    for call in long:
        engine.add(call, 0.0)
    assert (engine.running, len(engine.waiting)) == (1, 1)
    assert engine.kv_used_ratio == pytest.approx(0.6)
    ended = run_out(engine)
    assert long[1].first_token_s > ended[long[0]]


def test_it_waits_as_queueing_theory_says() -> None:
    """One at a time with the same work each: Lindley's recursion exactly, M/D/1 in the mean."""
    timing = EngineTiming(0.0, 0.001, 0.0, 0.0, 1000, 10**9, 10**6)
    service_s, rho = 0.1, 0.7
    random = np.random.default_rng(5)
    arrivals = np.cumsum(random.exponential(service_s / rho, 40_000)).tolist()
    engine = SimEngine(timing, 0.0)
    calls = [SimCall(at_s, 100, 1) for at_s in arrivals]
    for call in calls:
        while engine.next_event_s() <= call.arrived_s:
            engine.run(engine.next_event_s())
        engine.add(call, call.arrived_s)
    run_out(engine)
    waits = [call.first_token_s - call.arrived_s - service_s for call in calls]
    expected = [0.0]
    for last, this in pairwise(arrivals):
        expected.append(max(0.0, expected[-1] + service_s - (this - last)))
    assert waits == pytest.approx(expected, abs=1e-6)
    assert np.mean(waits) == pytest.approx(service_s * rho / (2 * (1 - rho)), rel=0.1)
