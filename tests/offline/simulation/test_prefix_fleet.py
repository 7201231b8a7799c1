"""Replicas with prefix caches under a small trace."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import orjson
import pytest

from serve_app.offline.bench.prefix_trace import build_grid, draw_calls
from serve_app.offline.simulation.engine import EngineTiming
from serve_app.offline.simulation.hardware import sharing_timing
from serve_app.offline.simulation.prefix_engine import (
    BlockCache,
    CachingEngine,
    Holders,
    Node,
    SharingCall,
)
from serve_app.offline.simulation.prefix_fleet import PrefixFleet, PrefixOutcome, sum_up
from serve_app.offline.simulation.prefix_policies import OURS, POLICIES
from serve_app.offline.simulation.prefix_trace import (
    BLOCK_TOKENS,
    PrefixCall,
    TraceLine,
    find_shared,
    overlay,
    read_trace,
)

TIMING = EngineTiming(0.01, 1e-4, 1e-8, 0.004, 8192, 60 * BLOCK_TOKENS, 64)
CONVERSATIONS, TURNS = 12, 6


def write_trace(path: Path) -> None:
    """Conversations that begin with one system prompt and grow by two blocks a turn."""
    lines = [
        {
            "timestamp": 1000 * (20 * turn + conversation),
            "input_length": 512 * (2 * turn + 3),
            "output_length": 50,
            "hash_ids": [0, *(1000 * conversation + 1 + part for part in range(2 * turn + 2))],
        }
        for turn in range(TURNS)
        for conversation in range(CONVERSATIONS)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")


@pytest.fixture
def lines(tmp_path: Path) -> list[TraceLine]:
    write_trace(tmp_path / "trace.jsonl")
    return read_trace(tmp_path / "trace.jsonl")


def simulate(
    policy: str, calls: list[PrefixCall], *, replicas: int = 3, routers: int = 2
) -> PrefixOutcome:
    placed = PrefixFleet(TIMING, replicas, routers, POLICIES[policy]).run(calls)
    assert len(placed) == len(calls)
    assert all(call.first_token_s < float("inf") for call in placed)
    return sum_up(placed, TIMING)


def test_a_trace_becomes_calls_with_keys(lines: list[TraceLine]) -> None:
    """A turn has the keys of the turn before; only full blocks are cached."""
    calls = overlay(lines, 1, 1000, 0, seed=1)
    assert len(calls) == len(lines)
    turns = sorted(
        (call for call in calls if call.blocks[1] == 1001), key=lambda call: call.prompt_tokens
    )
    assert len(turns) == TURNS
    for before, after in itertools.pairwise(turns):
        assert after.keys.keys[: len(before.keys.keys)] == before.keys.keys
        assert after.blocks[: len(before.blocks)] == before.blocks


def test_copies_share_only_the_system_prompt(lines: list[TraceLine]) -> None:
    """Each copy has conversations of its own, and a fraction has whole conversations."""
    assert find_shared(lines) >= {0}
    several = [
        TraceLine(at, 1024, 5, (0, 10 + at % 200)) for at in range(1000)
    ]  # no block but the first is in more than a hundredth of the calls
    calls = overlay(several, 1.5, 2000, 0, seed=1)
    own = {call.blocks[1] for call in calls}
    assert {call.blocks[0] for call in calls} == {0}
    assert 200 < len(own) < 400
    assert len(calls) == 5 * len(own)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_rule_answers_every_call(policy: str, lines: list[TraceLine]) -> None:
    """No rule loses a call, and the same seed gives the same outcome."""
    calls = overlay(lines, 1, 1000, 1, seed=1)
    outcome = simulate(policy, calls)
    assert 0 <= outcome.hit_ratio < 1
    assert outcome == simulate(policy, calls)


def test_expected_seconds_find_the_cached_beginnings(lines: list[TraceLine]) -> None:
    """The shipped classes reach more hits and earlier first tokens than round robin does."""
    calls = overlay(lines, 1, 1000, 1, seed=1)
    ours, blind = simulate(OURS, calls), simulate("round robin", calls)
    assert ours.hit_ratio > 1.3 * blind.hit_ratio
    assert ours.first_token_mean_s < blind.first_token_mean_s
    assert ours.prefill_s < blind.prefill_s


def test_a_cache_keeps_running_blocks_and_evicts_the_oldest_end() -> None:
    """As vLLM does: the last block of the call that ended first goes first."""
    holders = Holders()
    cache = BlockCache(6, holders, 1)
    assert cache.take((1, 2, 3), 0) == 0
    cache.give((1, 2, 3), 0)
    assert cache.take((1, 2, 4), 0) == 2
    assert cache.take((5, 6, 7), 0) == 0
    assert holders.match((1, 2, 3), 1) == [2 * BLOCK_TOKENS]
    assert holders.match((1, 2, 4), 1) == [3 * BLOCK_TOKENS]
    cache.give((1, 2, 4), 1)
    assert holders.match((1, 2, 4), 1) == [3 * BLOCK_TOKENS]


def test_an_engine_reads_only_what_is_not_cached(lines: list[TraceLine]) -> None:
    """The second of two equal prompts takes the time of its last block."""
    call = overlay(lines, 1, 1000, 0, seed=1)[-1]
    engine = CachingEngine(TIMING, BlockCache(60, Holders(), 1))
    first, second = SharingCall(call, 0), SharingCall(call, 0)
    engine.add(first, 0.0)
    engine.run(engine.next_event_s())
    engine.add(second, 1.0)
    engine.run(engine.next_event_s())
    assert first.cached == 0
    assert 0 < second.prompt - second.cached <= BLOCK_TOKENS


def test_a_replica_predicts_what_its_engine_has_cached(lines: list[TraceLine]) -> None:
    """The shipped table, fed with the engine's counts, is right but for the last key."""
    node = Node(0, sharing_timing(), Holders())
    errors = []
    for number, call in enumerate(overlay(lines, 1, 1000, 0, seed=1)):
        placed = SharingCall(call, 0)
        node.add(placed, 20.0 * number)
        while (event_s := node.engine.next_event_s()) < 20.0 * number + 19:
            node.run(event_s)
        assert placed.reading is not None
        errors.append(placed.cached - placed.reading.predicted_tokens)
    assert all(abs(error) <= BLOCK_TOKENS for error in errors[CONVERSATIONS:])


def test_the_benchmark_has_a_row_for_each_rule(lines: list[TraceLine]) -> None:
    """Its calls load the replicas as asked."""
    calls = draw_calls(lines, 2, 0.5, 60, 1.0, seed=1)
    grid = build_grid(2, 2, calls, seed=1)
    assert [row[0] for row in grid.rows] == list(POLICIES)
    assert {row[0]: row[-1] for row in grid.rows}[OURS] == "1.00"
    tokens_per_s = sum(call.prompt_tokens for call in calls) / calls[-1].arrived_s
    assert tokens_per_s * sharing_timing().token_s / 2 == pytest.approx(0.5, rel=0.5)


def test_one_seed_chooses_the_same_conversations(lines: list[TraceLine]) -> None:
    """Runs can be repeated."""
    chance = random.Random(4).randrange(100)
    assert overlay(lines, 0.5, 1000, 1, chance) == overlay(lines, 0.5, 1000, 1, chance)
