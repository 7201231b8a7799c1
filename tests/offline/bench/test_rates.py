"""The two rates of a replica: what counts, what follows, and the load itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import orjson
import pytest

from serve_app.offline.bench.bench_errors import CallFailed, PromptsTakeAll, WindowTooShort
from serve_app.offline.bench.rates import (
    TOKEN_IDS,
    Call,
    Counted,
    Endpoint,
    Shape,
    count,
    measure_rates,
    render_request,
    run_phase,
    solve,
)
from serve_app.offline.bench.responder import Responder
from tests.offline.bench.fakes import (
    HOST,
    STREAM,
    FakeServer,
    render_chunked,
    render_whole,
    running,
)

TYPICAL = Shape(prompt_tokens=100, output_tokens=50, clients=4)


def endpoint(port: int) -> Endpoint:
    return Endpoint(HOST, port, "/v1/completions", "fast")


def counted(prompts: float, outputs: float = 0.0, waits: Sequence[float] = (1.0,)) -> Counted:
    return Counted(prompts, outputs, 1.0, waits)


def test_calls_across_the_edges_count_in_part() -> None:
    """Prompts over the wait for the first token, answers over the time after it."""
    inside = Call(TYPICAL, 10, 12, 14)
    half_a_prompt = Call(TYPICAL, 8, 12, 14)
    half_an_answer = Call(TYPICAL, 16, 18, 22)
    outside = Call(TYPICAL, 0, 5, 9)
    found = count([inside, half_a_prompt, half_an_answer, outside], 10, 20)
    assert found.prompt_tokens_per_s == pytest.approx((100 + 50 + 100) / 10)
    assert found.output_tokens_per_s == pytest.approx((50 + 50 + 25) / 10)
    assert found.calls_per_s == pytest.approx((1 + 4 / 6 + 4 / 6) / 10)
    assert list(found.waits_s) == [2, 2]


def test_an_answer_in_no_time_counts_where_it_came() -> None:
    """An answer of one token has no time after the first."""
    one = Shape(100, 1, 4)
    within, after = Call(one, 10, 12, 12), Call(one, 15, 25, 25)
    assert count([within], 10, 20).output_tokens_per_s == pytest.approx(0.1)
    assert count([after], 10, 20).output_tokens_per_s == 0


def test_the_work_of_the_typical_call_is_what_was_seen() -> None:
    """Two calls a second of 100 and 50 tokens, at 1,000 prompt tokens a second."""
    rates = solve(counted(1000), Counted(200, 100, 2, [0.1, 0.2, 0.3]))
    assert rates.output_tokens_per_s == pytest.approx(100 / 0.8)
    work_s = 100 / rates.prompt_tokens_per_s + 50 / rates.output_tokens_per_s
    assert 1 / work_s == pytest.approx(rates.calls_per_s)
    assert (rates.first_token_p50_s, rates.first_token_p99_s) == (0.2, 0.3)
    half = rates.divide(2)
    assert half.calls_per_s == 1
    assert half.first_token_p50_s == 0.2


def test_answers_that_vanish_beside_their_prompts() -> None:
    """A small difference of two large numbers is no rate."""
    with pytest.raises(PromptsTakeAll, match="prompts take 95%"):
        solve(counted(1000), counted(950, 10))


async def test_both_phases_against_a_server() -> None:
    """A server that answers at once has rates, and asks for nothing else."""
    listener = await asyncio.get_running_loop().create_server(Responder, HOST, 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        found = await run_phase(endpoint(port), Shape(8, 64, 4), 0.2)
    assert found.output_tokens_per_s / found.calls_per_s == pytest.approx(64, rel=0.2)
    assert found.prompt_tokens_per_s / found.calls_per_s == pytest.approx(8, rel=0.2)


async def test_the_first_phase_asks_for_one_token_and_the_second_for_all() -> None:
    """First answers of the second phase differ, so that not all calls begin together."""
    async with running(FakeServer([render_chunked(STREAM)])) as server:
        # Answers of no time at all: both phases take the same.
        with suppress(PromptsTakeAll):
            await measure_rates(endpoint(server.port), TYPICAL, 0.1)
    asked = [orjson.loads(request.split(b"\r\n\r\n")[1]) for request in server.requests]
    lengths = {body["max_tokens"] for body in asked}
    assert lengths == {1, 13, 25, 38, 50}
    assert {len(body["prompt"]) for body in asked} == {100}
    assert all(body["ignore_eos"] and body["stream"] for body in asked)


async def test_a_failed_call_ends_the_measurement() -> None:
    """It says what the server said."""
    busy = render_whole(b"busy", "503 Service Unavailable")
    async with running(FakeServer([busy])) as server:
        with pytest.raises(CallFailed, match=r"status 503.*busy"):
            await run_phase(endpoint(server.port), TYPICAL, 0.1)


def test_a_window_that_is_too_short_is_an_error() -> None:
    """Of calls that all began before it, nothing is said."""
    with pytest.raises(WindowTooShort, match="--seconds"):
        count([Call(TYPICAL, 0, 12, 40)], 10, 20)


def test_no_cache_has_seen_a_prompt() -> None:
    """Prompts differ from their first token on, of ids that any vocabulary has."""
    chance = random.Random(1)
    bodies = [
        orjson.loads(render_request(endpoint(80), TYPICAL, chance).split(b"\r\n\r\n")[1])
        for _ in range(8)
    ]
    assert len({tuple(body["prompt"][:2]) for body in bodies}) == 8
    assert all(TOKEN_IDS[0] <= token < TOKEN_IDS[1] for body in bodies for token in body["prompt"])
    assert bodies[0]["model"] == "fast"
