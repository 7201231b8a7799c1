"""Builds the scorer that a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.scorer import HeuristicScorer, Scorer
from serve_app.routing.weights import SHIPPED_WEIGHTS, WeightsRefused, read_weights
from serve_app.routing.worth import find_headless


def build_scorer(config: RoutingConfig, tiers: Sequence[TierConfig] = ()) -> Scorer:
    """The scorer, which is called for every request. An objective chooses among `tiers`.

    Raises:
        WeightsRefused: the file that the config names cannot be used.
    """
    if config.scorer == "heuristic":
        return HeuristicScorer()
    path = Path(config.weights) if config.weights else SHIPPED_WEIGHTS
    scorer = LearnedScorer(read_weights(path))
    headless = find_headless(scorer.heads, [tier for tier in tiers if "generate" in tier.tasks])
    if config.objective is not None and headless:
        raise WeightsRefused(path, f"no head for {', '.join(headless)}, as routing.objective needs")
    return scorer
