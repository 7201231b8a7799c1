"""The share, cost and quality of each threshold, counted on scored calls; see `serve-app
calibrate`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from serve_app.core.prefix import NO_KEYS, PrefixKeys

BOUNDS_STRETCH = 0.15
"""How far the share may differ on these calls before a suggested bound holds the threshold."""

_DIGITS = 4
_Z = 1.959963984540054  # 95 %, two-sided


@dataclass(frozen=True, slots=True)
class ScoredCall:
    """The score of one call and, where it is labelled, how right each model is, 0 to 1.

    `keys` are those of its prompt's beginnings, and `prompt_tokens` its length; none if only the
    score is known.
    """

    score: float
    small: float | None = None
    large: float | None = None
    keys: PrefixKeys = NO_KEYS
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """The cost of 1,000 calls on each tier, in any currency."""

    fast: float
    strong: float

    def mix(self, strong_ratio: float) -> float:
        """The cost of 1,000 calls if this share of the calls is strong."""
        return (1 - strong_ratio) * self.fast + strong_ratio * self.strong


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold, with its share, cost and quality.

    `quality` is the mean label of the answers. `quality_margin` is half its 95 % confidence
    interval. `quality_ratio` is the quality relative to the strong model's. `gap_ratio` is the
    recovered share of the quality gap between the models. Each is None where it is unknown.
    """

    threshold: float
    strong_ratio: float
    cost: float | None = None
    quality: float | None = None
    quality_margin: float | None = None
    quality_ratio: float | None = None
    gap_ratio: float | None = None


class Unattainable(ValueError):
    """No threshold keeps the budget."""


class Calibration:
    """Every threshold that separates these calls, the fewest strong calls first."""

    def __init__(self, samples: Sequence[ScoredCall], prices: Prices | None = None) -> None:
        """`samples` must not be empty."""
        if not samples:
            raise ValueError("no calls")
        ordered = sorted(samples, key=lambda sample: -sample.score)
        self.calls = len(ordered)
        self.labelled = all(s.small is not None and s.large is not None for s in ordered)
        self._prices = prices
        labels = [(sample.small or 0.0, sample.large or 0.0) for sample in ordered]
        self._qualities = self._means([(small, large) for small, large in labels])
        self._squares = self._means([(small * small, large * large) for small, large in labels])
        self.choices = [
            self._choice(count, threshold) for count, threshold in _cuts([s.score for s in ordered])
        ]
        self._ratios = [choice.strong_ratio for choice in self.choices]

    def at_ratio(self, ratio: float) -> Choice:
        """The choice with the most strong calls within this share.

        Raises:
            Unattainable: more calls than that have the highest possible score, 1.
        """
        index = bisect_right(self._ratios, ratio) - 1
        if index < 0:
            raise Unattainable(
                f"{self._ratios[0]:.1%} of the calls score 1, and no threshold excludes them"
            )
        return self.choices[index]

    def at_cost(self, cost_max: float) -> Choice:
        """The choice with the most strong calls that the budget for 1,000 calls pays for.

        Raises:
            Unattainable: even the cheapest choice costs more, or there are no prices.
        """
        paid = [choice for choice in self.choices if choice.cost is not None]
        within = [choice for choice in paid if (choice.cost or 0.0) <= cost_max]
        if not within:
            least = min((choice.cost or 0.0 for choice in paid), default=None)
            raise Unattainable(
                "there are no prices" if least is None else f"the cheapest choice costs {least:g}"
            )
        return within[-1]

    def at_quality(self, ratio_min: float) -> Choice:
        """The choice with the fewest strong calls at this share of the strong model's quality.

        Raises:
            Unattainable: the calls are not labelled, or the strong model is never right.
        """
        for choice in self.choices:
            if choice.quality_ratio is not None and choice.quality_ratio >= ratio_min:
                return choice
        raise Unattainable(
            "the strong model is never right"
            if self.labelled
            else "not every call has small_score and large_score"
        )

    def bounds(self, ratio: float) -> tuple[float, float]:
        """Two thresholds, some way below and above the threshold that gives this share."""
        low, high = ratio + BOUNDS_STRETCH, ratio - BOUNDS_STRETCH
        return (
            0.0 if low >= 1 else self.at_ratio(max(low, self._ratios[0])).threshold,
            1.0 if high <= 0 else self.at_ratio(max(high, self._ratios[0])).threshold,
        )

    def _means(self, labels: Sequence[tuple[float, float]]) -> Sequence[float]:
        """The mean label of all answers, for every number of strong calls from 0 on."""
        gains = accumulate((large - small for small, large in labels), initial=0.0)
        all_small = sum(small for small, _ in labels)
        return [(all_small + gain) / self.calls for gain in gains]

    def _choice(self, strong: int, threshold: float) -> Choice:
        ratio = strong / self.calls
        cost = None if self._prices is None else self._prices.mix(ratio)
        if not self.labelled:
            return Choice(threshold, ratio, cost)
        quality, worst, best = self._qualities[strong], self._qualities[0], self._qualities[-1]
        variance = max(0.0, self._squares[strong] - quality * quality)
        return Choice(
            threshold,
            ratio,
            cost,
            quality,
            quality_margin=_Z * math.sqrt(variance / self.calls),
            quality_ratio=quality / best if best > 0 else None,
            gap_ratio=(quality - worst) / (best - worst) if best > worst else None,
        )


def _cuts(scores: Sequence[float]) -> list[tuple[int, float]]:
    """Each count of strong calls, with a threshold that this number of scores reaches."""
    cuts = [] if scores[0] >= 1 else [(0, _between(scores[0], 1.0))]
    for count, score in enumerate(scores, start=1):
        if count == len(scores):
            cuts.append((count, 0.0))
        elif scores[count] < score:
            cuts.append((count, _between(scores[count], score)))
    return cuts


def _between(lower: float, upper: float) -> float:
    """A short number above `lower` and not above `upper`."""
    middle = round((lower + upper) / 2, _DIGITS)
    return middle if lower < middle <= upper else upper
