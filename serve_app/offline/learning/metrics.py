"""What a scorer is worth on calls whose outcome with either model is known.

Of any share of the calls, those with the highest scores, sent to the strong model, some part of the
gap between the two models is recovered. APGR is that part averaged over all shares; chance has 0.5.
CPT(x) is the smallest share that recovers the part x. (Both are those of RouteLLM.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.offline.evaluate.stats import Interval

BINS = 10

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; None where the data cannot say."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Measures:
    """One scorer on one set of calls. `ece` is the calibration error of the predicted gain."""

    apgr: Estimate
    cpt50: Estimate
    cpt80: Estimate
    ece: Estimate | None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How right (0..1) either model was on each call; `groups` numbers what belongs together."""

    fast: Values
    strong: Values
    groups: NDArray[np.int64]

    def choose(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Outcomes:
        """A subset of the calls."""
        return Outcomes(self.fast[chosen], self.strong[chosen], self.groups[chosen])


def recover(scores: Values, outcomes: Outcomes) -> tuple[Values, Values]:
    """The curve: shares of strong calls from 0 to 1, and the part of the gap that each recovers.

    Calls with equal scores are one straight piece: which of them go is left to chance.

    Raises:
        ValueError: the strong model is no better than the fast one.
    """
    gains = outcomes.strong - outcomes.fast
    if not gains.sum() > 0:
        raise ValueError("the strong model is no better than the fast one on these calls")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) + 1
    parts = np.cumsum(gains[order])[last - 1] / gains.sum()
    return np.append(0.0, last / len(scores)), np.append(0.0, parts)


def apgr(scores: Values, outcomes: Outcomes) -> float:
    """The area under the curve."""
    shares, parts = recover(scores, outcomes)
    return float(np.trapezoid(parts, shares))


def cpt(scores: Values, outcomes: Outcomes, part: float) -> float:
    """The smallest share of strong calls that recovers this part of the gap."""
    shares, parts = recover(scores, outcomes)
    index = int(np.argmax(parts >= part - 1e-12))
    rise = parts[index] - parts[index - 1]
    along = (part - parts[index - 1]) / rise if index and rise > 0 else 1.0
    return float(shares[index - 1] + min(along, 1.0) * (shares[index] - shares[index - 1]))


def calibration_error(gains: Values, outcomes: Outcomes) -> float:
    """How far predicted gains are off, in points of P(right): the mean over equal-count bins."""
    order = np.argsort(gains, kind="stable")
    off = gains[order] - (outcomes.strong - outcomes.fast)[order]
    bins = np.array_split(off, min(BINS, len(off)))
    return float(sum(abs(part.mean()) * len(part) for part in bins) / len(off))


def measure(
    scores: Values,
    outcomes: Outcomes,
    gains: Values | None = None,
    draws: Sequence[NDArray[np.int64]] = (),
) -> Measures:
    """Everything, with intervals from the `draws` of `resample`.

    `gains` are the predicted ones, where the scorer predicts.
    """

    def estimate(of: Callable[[Values, Outcomes], float], values: Values) -> Estimate:
        return _estimate(of, values, outcomes, draws)

    return Measures(
        apgr=estimate(apgr, scores),
        cpt50=estimate(lambda s, o: cpt(s, o, 0.5), scores),
        cpt80=estimate(lambda s, o: cpt(s, o, 0.8), scores),
        ece=None if gains is None else estimate(calibration_error, gains),
    )


def random_scores(calls: int, seed: int = 0) -> Values:
    """The peer that knows nothing."""
    return np.random.default_rng(seed).random(calls)


def resample(groups: NDArray[np.int64], count: int, seed: int = 0) -> Sequence[NDArray[np.int64]]:
    """Rows of whole groups, drawn with replacement `count` times."""
    _, numbers = np.unique(groups, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        for _ in range(count)
    ]


def _estimate(
    of: Callable[[Values, Outcomes], float],
    values: Values,
    outcomes: Outcomes,
    draws: Sequence[NDArray[np.int64]],
) -> Estimate:
    try:
        value = of(values, outcomes)
    except ValueError:
        return Estimate(None, None)
    found = []
    for drawn in draws:
        try:
            found.append(of(values[drawn], outcomes.choose(drawn)))
        except ValueError:
            continue
    # With the value itself: resampling adds noise to bins, which calibration error is made of.
    low, high = np.percentile([*found, value], [2.5, 97.5])
    return Estimate(value, Interval(min(float(low), value), max(float(high), value)))
