"""The options of a lesson."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.offline.learning.records import Pair


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen.

    `resamples` of the bootstrap make the intervals. Records of another pair than `pair` count
    `other_pair_weight` when fitting and are not measured; `anchors` prompts made by code count as
    much as a record. `strength` is how far data may move the weights (None: cross-validation
    chooses), `term_freedom` how far the counted terms may move beside the
    n-grams: with little of it they stay the heuristic's. `quality_min` is the share of the strong
    model's accuracy that a cascade's threshold must keep. `reserve_ratio` is the share of the
    records that no lesson learns from, so that lessons can be compared on it. `tiers` are the names
    of three or more tiers, weakest first, each of which gets a head; none: the fast and the strong
    one. `prices` are what a call costs on each tier.
    """

    folds: int = 5
    seed: int = 0
    resamples: int = 500
    pair: Pair | None = None
    other_pair_weight: float = 0.3
    anchors: int = 600
    strength: float | None = None
    term_freedom: float = 0.1
    quality_min: float = 0.98
    reserve_ratio: float = 0.2
    tiers: tuple[str, ...] = ()
    prices: tuple[float, ...] = ()
