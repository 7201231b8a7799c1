"""Builds the scorer that a config asks for."""

from __future__ import annotations

from pathlib import Path

from serve_app.config.runtime import RoutingConfig
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.scorer import HeuristicScorer, Scorer
from serve_app.routing.weights import SHIPPED_WEIGHTS, read_weights


def build_scorer(config: RoutingConfig) -> Scorer:
    """The scorer, which is called for every request.

    Raises:
        WeightsRefused: the file that the config names cannot be used.
    """
    if config.scorer == "heuristic":
        return HeuristicScorer()
    return LearnedScorer(read_weights(Path(config.weights) if config.weights else SHIPPED_WEIGHTS))
