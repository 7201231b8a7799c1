"""The benchmark of hedging: both runs get the same calls, and a hedge is paid for."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.offline.bench.hedging import (
    FIRST_S,
    PAUSE_S,
    Load,
    PausingEngine,
    Run,
    measure,
)

LOAD = Load(replicas=4, per_s=20.0, seconds=1.0, seed=1, together=False)


def test_a_load_is_the_same_each_time() -> None:
    """Its calls and its pauses; engines that pause together have the same pauses."""
    assert list(LOAD.arrivals()) == list(LOAD.arrivals())
    long = Load(replicas=4, per_s=20.0, seconds=500.0, seed=1, together=False)
    assert long.pauses(0) == long.pauses(0) != long.pauses(1)
    together = Load(replicas=4, per_s=20.0, seconds=500.0, seed=1, together=True)
    assert together.pauses(0) == together.pauses(1)


async def test_a_paused_engine_sends_no_first_token() -> None:
    """Not before its pause has ended."""
    paused = PausingEngine(Run(), [0.0], "seed")
    free = PausingEngine(Run(), [1000.0], "seed")
    assert paused.first_s() > free.first_s() + PAUSE_S / 2
    await asyncio.sleep(0)
    assert free.first_s() < 10 * FIRST_S


@pytest.mark.slow
def test_both_runs_are_measured() -> None:
    """Over real connections; a hedge is a second attempt that the report counts."""
    grid = measure(LOAD)
    off, *ons = ({**dict(zip(grid.header, row, strict=True))} for row in grid.rows)
    assert (off["sent : calls"], off["p99 x off"]) == ("1.000", "1.00")
    for on in ons:
        assert int(on["won"]) + int(on["lost"]) <= 10 + 0.05 * 6 * LOAD.per_s
        assert float(on["sent : calls"]) >= 1.0
