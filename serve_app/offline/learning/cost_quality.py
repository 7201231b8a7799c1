"""What a choice among several tiers is worth: quality over cost, on calls with a label of each.

A way to choose is a curve: for every weight of money, the mean cost and the mean label of calls.
AIQ (average improvement in quality, as RouterBench has it) is the mean height of the curve between
the cost of the cheapest tier and that of the dearest. Every curve begins with all calls on the
cheapest tier, and beyond its dearest point it is level, because nobody must spend more. The mixture
is what chance reaches: each call goes to one of two tiers at random, whichever two are best at that
cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from serve_app.offline.evaluate.stats import Interval, find_hull
from serve_app.offline.learning.confidence import calibration_error
from serve_app.offline.learning.metrics import Estimate, Values

HEADS = "P(right) less price"
EVEN = "range divided evenly"
OUTER = "outer two by score"
MIXTURE = "mixture at random"

BUDGETS = (0.1, 0.25, 0.5, 0.75)
"""Shares of the way from the cheapest tier's cost to the dearest's."""
STEPS = 200

Curve = tuple[Values, Values]
"""Costs, rising, and the quality at each."""


@dataclass(frozen=True, slots=True)
class TierMeasures:
    """One tier on these calls. `auc` says how well its head finds the calls that it gets right
    (None: it gets all or none right), `ece` how far the chances are off."""

    name: str
    price: float
    right: float
    auc: float | None
    ece: float


@dataclass(frozen=True, slots=True)
class Way:
    """A way to choose. `lead` is the AIQ of the heads less its own, `at` the quality at the
    budgets."""

    aiq: Estimate
    lead: Estimate
    at: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TiersReport:
    """The tiers by themselves, and the ways to choose among them."""

    records: int
    tiers: Sequence[TierMeasures]
    ways: Mapping[str, Way]


@dataclass(frozen=True, slots=True)
class _Calls:
    """Chances and labels have a column a tier; `scores` are those that a threshold compares."""

    chances: Values
    labels: Values
    scores: Values
    prices: Values

    def choose(self, rows: NDArray[np.int64]) -> _Calls:
        return _Calls(self.chances[rows], self.labels[rows], self.scores[rows], self.prices)


def judge_tiers(
    chances: Values,
    labels: Values,
    scores: Values,
    prices: Sequence[float],
    draws: Sequence[NDArray[np.int64]],
    names: Sequence[str],
) -> TiersReport:
    """Compare the ways to choose, with intervals from the `draws` of a bootstrap."""
    calls = _Calls(chances, labels, scores, np.array(prices, dtype=np.float64))
    curves = _draw_curves(calls)
    found = {name: _measure(curve, calls.prices) for name, curve in curves.items()}
    drawn = [
        {name: _measure(curve, calls.prices) for name, curve in _draw_curves(part).items()}
        for part in (calls.choose(rows) for rows in draws)
    ]
    ways = {
        name: Way(
            _estimate(found[name], [each[name] for each in drawn]),
            _estimate(found[HEADS] - found[name], [each[HEADS] - each[name] for each in drawn]),
            _read_budgets(curve, calls.prices),
        )
        for name, curve in curves.items()
    }
    return TiersReport(len(labels), _measure_tiers(calls, names), ways)


def choose_by_price(chances: Values, prices: Values, weight: float) -> NDArray[np.int64]:
    """The tier of each call that is worth most; the weakest of equals."""
    chosen: NDArray[np.int64] = np.argmax(chances - weight * prices, axis=1)
    return chosen


def divide_evenly(scores: Values, threshold: float, tiers: int) -> NDArray[np.int64]:
    """The tier of each call as `routing/choose.py` divides the range without an objective."""
    below = np.minimum(scores, threshold) / (threshold or 1.0) * (tiers - 1)
    return np.where(scores >= threshold, tiers - 1, np.minimum(below.astype(np.int64), tiers - 2))


def mix_at_random(costs: Values, qualities: Values) -> Curve:
    """The best quality that chance reaches at each cost."""
    hull = find_hull(list(zip(costs.tolist(), qualities.tolist(), strict=True)))
    return np.array([cost for cost, _ in hull]), np.array([quality for _, quality in hull])


def measure_aiq(curve: Curve, low: float, high: float) -> float:
    """The mean height of a curve between two costs; level beyond its ends."""
    costs, qualities = curve
    inside = costs[(costs > low) & (costs < high)]
    at = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(np.interp(at, costs, qualities), at) / (high - low))


def _draw_curves(calls: _Calls) -> Mapping[str, Curve]:
    tiers = len(calls.prices)
    spread = float(np.ptp(calls.prices)) or 1.0
    weights = [0.0, *(np.geomspace(1e-3, 10.0, STEPS) / spread).tolist()]
    # A threshold at each quantile of the scores, and one above all of them.
    cuts = [*np.quantile(calls.scores, np.linspace(0, 1, STEPS)).tolist(), 1.0000001]
    by_price = [choose_by_price(calls.chances, calls.prices, weight) for weight in weights]
    evenly = [divide_evenly(calls.scores, cut, tiers) for cut in cuts]
    outer = [np.where(calls.scores >= cut, tiers - 1, 0) for cut in cuts]
    return {
        HEADS: _trace(calls, by_price),
        EVEN: _trace(calls, evenly),
        OUTER: _trace(calls, outer),
        MIXTURE: mix_at_random(calls.prices, calls.labels.mean(axis=0)),
    }


def _trace(calls: _Calls, choices: Sequence[NDArray[np.int64]]) -> Curve:
    """A point for each choice, and all calls on the cheapest tier; of equal costs the mean."""
    rows = np.arange(len(calls.labels))
    choices = [*choices, np.full(len(rows), np.argmin(calls.prices))]
    costs = np.array([calls.prices[chosen].mean() for chosen in choices])
    qualities = np.array([calls.labels[rows, chosen].mean() for chosen in choices])
    each, where = np.unique(costs, return_inverse=True)
    return each, np.bincount(where, qualities) / np.bincount(where)


def _measure(curve: Curve, prices: Values) -> float:
    return measure_aiq(curve, float(prices.min()), float(prices.max()))


def _read_budgets(curve: Curve, prices: Values) -> Mapping[str, float]:
    low, spread = float(prices.min()), float(np.ptp(prices))
    costs = [low + share * spread for share in BUDGETS]
    return {f"{cost:g}": float(np.interp(cost, *curve)) for cost in costs}


def _measure_tiers(calls: _Calls, names: Sequence[str]) -> Sequence[TierMeasures]:
    found = []
    for tier, name in enumerate(names):
        right, chances = calls.labels[:, tier] >= 0.5, calls.chances[:, tier]
        found.append(
            TierMeasures(
                name=name,
                price=float(calls.prices[tier]),
                right=float(calls.labels[:, tier].mean()),
                auc=float(roc_auc_score(right, chances)) if 0 < right.sum() < len(right) else None,
                ece=calibration_error(chances, right),
            )
        )
    return found


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    low, high = np.percentile([*drawn, value], [2.5, 97.5])
    return Estimate(value, Interval(min(float(low), value), max(float(high), value)))
