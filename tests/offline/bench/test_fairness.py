"""The benchmark of fairness, in virtual time, which gives the same figures everywhere."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.offline.bench.fairness import measure
from serve_app.offline.bench.virtual_loop import run_virtually


def test_a_flood_leaves_the_other_tenants_their_first_tokens() -> None:
    """With the places of a production replica, p95 stays within 1.5 times the quiet p95."""
    grid = measure(places=128, seconds=20, seed=1)
    ratios = {row[0]: float(row[-1]) for row in grid.rows}
    assert ratios["flood, fair"] <= 1.5
    assert ratios["flood, first come first served"] > 20


def test_the_clock_skips_what_nobody_does_anything_in() -> None:
    """An hour passes at once, and timers fire in their order."""

    async def sleepers() -> tuple[float, list[int]]:
        woken: list[int] = []

        async def sleep(seconds: int) -> None:
            await asyncio.sleep(seconds)
            woken.append(seconds)

        await asyncio.gather(sleep(3600), sleep(60), sleep(1))
        return asyncio.get_running_loop().time(), woken

    now, woken = run_virtually(sleepers())
    assert (now, woken) == (pytest.approx(3600), [1, 60, 3600])


def test_a_run_that_waits_for_ever_says_so() -> None:
    """Nothing would end it."""

    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="every task waits"):
        run_virtually(wait())
