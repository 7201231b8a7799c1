"""What `routing.residency_weight` saves in a replay of calls."""

from __future__ import annotations

import random

import pytest

from serve_app.core.prefix import prefix_keys
from serve_app.offline.bench.prefix_tiers import HEADER, WEIGHTS, build_grid, draw_scores
from serve_app.offline.simulation.prefix_trace import PrefixCall
from serve_app.offline.simulation.residency import Replay, replay
from serve_app.routing.calibration import ScoredCall

TURNS, TOKENS = 6, 1000
GPU_S = (0.0001, 0.001)


def conversations(count: int, seed: int = 1) -> list[ScoredCall]:
    """Turn by turn; each turn adds as much to the prompt as the first has, and scores anew."""
    chance = random.Random(seed)
    return [
        ScoredCall(
            chance.uniform(0.2, 0.8),
            small=0.0,
            large=1.0,
            keys=prefix_keys([b"%6d." % conversation * 500 * (turn + 1)]),
            prompt_tokens=TOKENS * (turn + 1),
        )
        for turn in range(TURNS)
        for conversation in range(count)
    ]


def run(calls: list[ScoredCall], weight: float) -> Replay:
    return replay(calls, weight, strong_ratio=0.4, threshold=0.5, gpu_s=GPU_S)


def test_a_weight_saves_reading_and_holds_the_share() -> None:
    """Conversations stay where they are cached, and the calls that move are not the hardest."""
    calls = conversations(200)
    plain, weighed = run(calls, 0.0), run(calls, 0.3)
    assert plain.moved_ratio == 0
    assert weighed.read_gpu_s < 0.8 * plain.read_gpu_s
    assert abs(weighed.strong_ratio - plain.strong_ratio) < 0.03
    assert weighed.moved_ratio > 0.05
    assert weighed.score < plain.score
    assert weighed.quality == pytest.approx(weighed.strong_ratio)


def test_what_a_tier_has_read_it_does_not_read_again() -> None:
    """With one tier for all, each conversation is read once."""
    calls = conversations(5)
    once = replay(calls, 0.0, strong_ratio=0.0, threshold=1.0, gpu_s=GPU_S)
    assert once.strong_ratio == 0
    whole = sum(call.prompt_tokens for call in calls) * GPU_S[0]
    assert 5 * TURNS * TOKENS * GPU_S[0] <= once.read_gpu_s < 0.5 * whole


def test_calls_without_keys_or_labels_change_nothing() -> None:
    """Nothing is cached of them, and there is no quality to tell."""
    calls = [ScoredCall(score / 100) for score in range(100)]
    assert run(calls, 1.0) == Replay(1.0, *_rest(run(calls, 0.0)))
    assert run(calls, 1.0).quality is None


def _rest(found: Replay) -> tuple[float, float, float, float, float | None]:
    return (
        found.strong_ratio, found.read_gpu_s, found.moved_ratio, found.score, found.quality
    )  # fmt: skip


def test_the_benchmark_has_a_row_for_each_weight() -> None:
    """The scores of a conversation deviate from one mean, and a seed gives the same scores."""
    calls = [
        PrefixCall(0.0, TOKENS, 10, (1, 10 + n % 20), prefix_keys([b"%4d" % (n % 20) * 1000]))
        for n in range(200)
    ]
    scored = draw_scores(calls, frozenset({1}), 0.0, seed=2)
    assert scored == draw_scores(calls, frozenset({1}), 0.0, seed=2)
    assert len({call.score for call in scored}) == 20
    grid = build_grid(scored, 0.3, 0.0)
    assert [row[0] for row in grid.rows] == [f"{weight:g}" for weight in WEIGHTS]
    assert all(len(row) == len(HEADER) for row in grid.rows)
