"""Who gets a freed place in the simulation of `serve-app bench prefix-queue`."""

from __future__ import annotations

import random

import pytest

from serve_app.core.prefix import prefix_keys
from serve_app.offline.bench.prefix_queue import HEADER, Fleet, Rule, build_grid, run
from serve_app.offline.bench.virtual_loop import run_virtually
from serve_app.offline.simulation.prefix_engine import SharingCall
from serve_app.offline.simulation.prefix_trace import BLOCK_TOKENS, BYTES_PER_TOKEN, PrefixCall

FLEET = Fleet(replicas=3, places=2, routers=2)
DEADLINE_S = 4.0


@pytest.fixture(scope="module")
def calls() -> list[PrefixCall]:
    """Conversations of long prompts, more of them at a time than there are places."""
    chance = random.Random(3)
    made = []
    for conversation in range(12):
        at_s = chance.uniform(0, 10)
        for turn in range(5):
            blocks = tuple(1000 * conversation + part for part in range(16 + 2 * turn))
            text = b"".join(
                [
                    block.to_bytes(8, "big") * (BLOCK_TOKENS * BYTES_PER_TOKEN // 8)
                    for block in blocks
                ]
            )
            made.append(
                PrefixCall(at_s, BLOCK_TOKENS * len(blocks), 300, blocks, prefix_keys([text]))
            )
            at_s += chance.uniform(8, 20)
    return sorted(made, key=lambda call: call.arrived_s)


def simulate(calls: list[PrefixCall], rule: Rule) -> list[SharingCall]:
    return run_virtually(run(FLEET, calls, rule, seed=1))


@pytest.mark.parametrize("gains", [True, False])
def test_every_call_is_answered(calls: list[PrefixCall], gains: bool) -> None:
    """The same seed gives the same outcome, and without a deadline no call is refused."""
    fates = simulate(calls, Rule(gains))
    assert len(fates) == len(calls)
    assert not any(call.spilled for call in fates)
    again = simulate(calls, Rule(gains))
    assert [call.first_token_s for call in fates] == [call.first_token_s for call in again]
    assert sum(call.cached for call in fates) > 0


def test_a_call_that_is_not_refused_begins_in_time(calls: list[PrefixCall]) -> None:
    """But for a few, because the promise is a mean."""
    fates = simulate(calls, Rule(True, DEADLINE_S))
    late = [
        call
        for call in fates
        if not call.spilled and call.first_token_s - call.arrived_s > DEADLINE_S
    ]
    assert len(late) <= 0.1 * len(fates)


def test_the_benchmark_has_a_row_for_each_rule(calls: list[PrefixCall]) -> None:
    """Each with all of its cells."""
    grid = build_grid(FLEET, calls, DEADLINE_S, seed=1)
    assert len(grid.rows) == 5
    assert all(len(row) == len(HEADER) for row in grid.rows)
