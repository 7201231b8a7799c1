"""The statistics of an evaluation, all in closed form: the same answers give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_Z = 1.959963984540054  # 95 %, two-sided


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more often one model is right than another on the same questions.

    `interval` is Newcombe's for paired shares (1998, method 10); `p` is McNemar's exact test: how
    likely a difference at least this large is where the models are equally good.
    """

    mean: float
    interval: Interval
    p: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def wilson(right: int, total: int) -> Interval:
    """Wilson's interval of a share; it stays within 0..1, and is wide where there is little."""
    if total == 0:
        return Interval(0.0, 1.0)
    share, z2 = right / total, _Z * _Z
    centre = share + z2 / (2 * total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    scale = 1 + z2 / total
    # Rounding must not push the bounds past the share itself.
    return Interval(
        min(max(0.0, (centre - half) / scale), share), max(min(1.0, (centre + half) / scale), share)
    )


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of the numbers of questions that only one of the two models got
    right."""
    discordant = gained + lost
    tail = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def find_hull(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Of points of cost and quality those that chance cannot beat: the upper hull, as far as it
    rises. Between two of them lie the mixtures of both."""
    hull: list[tuple[float, float]] = []
    for cost, quality in sorted(points):
        if hull and quality <= hull[-1][1]:
            continue
        if hull and cost == hull[-1][0]:
            hull.pop()
        while len(hull) > 1 and _rise(hull[-2], hull[-1]) <= _rise(hull[-1], (cost, quality)):
            hull.pop()
        hull.append((cost, quality))
    return hull


def read_hull(hull: Sequence[tuple[float, float]], cost: float) -> float:
    """The quality at this cost; level beyond the ends."""
    for (low, worse), (high, better) in pairwise(hull):
        if low <= cost <= high:
            return worse + (better - worse) * (cost - low) / (high - low)
    return hull[0][1] if cost < hull[0][0] else hull[-1][1]


def _rise(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def compare(ours: Sequence[bool], theirs: Sequence[bool]) -> Difference:
    """Two models on the same questions, in the same order."""
    if not ours or len(ours) != len(theirs):
        raise ValueError("the same questions, at least one")
    pairs = list(zip(ours, theirs, strict=True))
    both, gained = pairs.count((True, True)), pairs.count((True, False))
    lost, neither = pairs.count((False, True)), pairs.count((False, False))
    interval = _newcombe(both, gained, lost, neither)
    return Difference((gained - lost) / len(pairs), interval, mcnemar(gained, lost))


def _newcombe(both: int, gained: int, lost: int, neither: int) -> Interval:
    total = both + gained + lost + neither
    ours, theirs = (both + gained) / total, (both + lost) / total
    wilson_ours, wilson_theirs = wilson(both + gained, total), wilson(both + lost, total)
    phi = _correlation(both, gained, lost, neither)

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    below = distance(ours - wilson_ours.low, wilson_theirs.high - theirs)
    above = distance(wilson_ours.high - ours, theirs - wilson_theirs.low)
    return Interval(ours - theirs - below, ours - theirs + above)


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Phi, corrected for continuity as method 10 wants it."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    covariance: float = both * neither - gained * lost
    if covariance > 0:
        covariance = max(covariance - (both + gained + lost + neither) / 2, 0.0)
    return covariance / math.sqrt(margins)
