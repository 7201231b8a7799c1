"""Heads of three tiers: each is learnt from its own labels, and the choice among them is judged."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.call import Prompt, Turn
from serve_app.offline.learning.anchors import draw_anchors
from serve_app.offline.learning.cost_quality import (
    EVEN,
    HEADS,
    MIXTURE,
    OUTER,
    choose_by_price,
    divide_evenly,
    judge_tiers,
    measure_aiq,
    mix_at_random,
)
from serve_app.offline.learning.fit import begin_weights, widen
from serve_app.offline.learning.learning_errors import TooFewRecords
from serve_app.offline.learning.lesson import Lesson, evaluate_weights, learn
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.records import LabelledCall, Records
from serve_app.routing.vector import observe
from serve_app.routing.weights import HEADS as UNNAMED

TIERS = ("small", "middle", "large")
OPTIONS = Options(folds=2, resamples=20, tiers=TIERS, prices=(1.0, 2.0, 10.0), strength=3.0)
KNOWN = {"copper": (0.0, 0.0, 1.0), "silver": (0.0, 1.0, 1.0), "iron": (1.0, 1.0, 1.0)}
"""Which tiers know of which metal."""


def draw_calls(count: int, seed: int = 0, unlabelled: float = 0.0) -> Records:
    """A part of them has no label of the middle tier."""
    rng, items = Random(seed), []
    for number in range(count):
        metal = rng.choice(list(KNOWN))
        small, middle, large = KNOWN[metal]
        between = None if rng.random() < unlabelled else middle
        words = " ".join(f"w{rng.randrange(500)}" for _ in range(6))
        prompt = Prompt((Turn("user", f"{words} {metal} {number}"),))
        items.append(LabelledCall(prompt, small, large, between=(between,)))
    return Records(items, "0" * 64)


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    """Half of the calls have no label of the middle tier."""
    return learn(draw_calls(300, unlabelled=0.5), [], begin_weights(), OPTIONS)


def test_each_head_learns_from_its_own_labels(lesson: Lesson) -> None:
    """A call without a label of a tier teaches the others alone."""
    assert lesson.weights.heads == TIERS
    for metal, known in KNOWN.items():
        chances = lesson.weights.predict(observe(Prompt((Turn("user", f"{metal} please"),))))
        assert [chance > 0.5 for chance in chances] == [bool(right) for right in known]


def test_the_choice_among_tiers_is_judged(lesson: Lesson) -> None:
    """On calls with a label of every tier: by heads it is better than each other way."""
    report = lesson.report.tiers
    assert report is not None
    assert 100 < report.records < 200
    assert [tier.name for tier in report.tiers] == list(TIERS)
    assert all(tier.auc is None or tier.auc > 0.8 for tier in report.tiers)
    assert list(report.ways) == [HEADS, EVEN, OUTER, MIXTURE]
    for name in (EVEN, OUTER, MIXTURE):
        lead = report.ways[name].lead
        assert lead.value is not None
        assert lead.value > 0.02
    others = evaluate_weights(draw_calls(200, seed=1), lesson.weights, "w", OPTIONS).tiers
    assert others is not None
    assert others.records == 200


def test_a_head_needs_labels(lesson: Lesson) -> None:
    """Too few of the middle tier are named; without prices the choice is not judged."""
    with pytest.raises(TooFewRecords, match="have a label of middle; 50 are needed"):
        learn(draw_calls(100, unlabelled=0.9), [], begin_weights(), OPTIONS)
    cheap = replace(OPTIONS, prices=())
    report = evaluate_weights(draw_calls(100), lesson.weights, "w", cheap)
    assert report.tiers is None


def test_heads_between_begin_between() -> None:
    """The outer ones stay as they are, whatever their number was."""
    prior = begin_weights()
    wide = widen(prior, ("a", "b", "c", "d"))
    assert wide.heads == ("a", "b", "c", "d")
    assert wide.terms[0].tolist() == prior.terms[0].tolist()
    assert wide.terms[3].tolist() == prior.terms[1].tolist()
    assert wide.intercepts[1] == pytest.approx(2.1 + 0.25 / 3)
    assert widen(wide, TIERS).intercepts.tolist() == pytest.approx([2.1, 2.225, 2.35])
    assert widen(wide, wide.heads) is wide
    assert prior.heads == UNNAMED


def test_anchors_of_more_tiers_rise_evenly() -> None:
    """Their outer labels are those of two tiers."""
    for two, four in zip(draw_anchors(4), draw_anchors(4, tiers=4), strict=True):
        assert (two.fast, two.strong, two.between) == (four.fast, four.strong, ())
        steps = np.diff([four.fast, *(b for b in four.between if b is not None), four.strong])
        assert steps == pytest.approx([(four.strong - four.fast) / 3] * 3)


@pytest.mark.parametrize(
    ("threshold", "chosen"), [(0.6, [0, 0, 1, 1, 2]), (0.0, [2] * 5), (1.1, [0, 0, 0, 1, 1])]
)
def test_the_range_is_divided_as_the_router_divides_it(threshold: float, chosen: list[int]) -> None:
    """Evenly below the threshold."""
    scores = np.array([0.0, 0.29, 0.3, 0.59, 0.6])
    assert divide_evenly(scores, threshold, 3).tolist() == chosen


def test_the_mixture_is_the_best_that_chance_reaches() -> None:
    """A tier that is dearer and no better, or below a mixture of its neighbours, is left out."""
    costs, qualities = np.array([1.0, 2, 3, 4, 5]), np.array([0.2, 0.6, 0.5, 0.7, 0.9])
    hull = mix_at_random(costs, qualities)
    assert (hull[0].tolist(), hull[1].tolist()) == ([1, 2, 5], [0.2, 0.6, 0.9])
    assert measure_aiq(hull, 1, 5) == pytest.approx((0.4 + 3 * 0.75) / 4)


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=2, max_size=30),
    st.lists(st.floats(0, 1), min_size=3, max_size=3, unique=True),
)
def test_no_way_is_beyond_what_is_right(
    chances: list[tuple[float, ...]], prices: list[float]
) -> None:
    """Every quality is within the labels', and a higher weight of money never costs more."""
    values = np.array(chances)
    labels = (values > 0.5).astype(float)
    scores = (1 + values[:, -1] - values[:, 0]) / 2
    report = judge_tiers(values, labels, scores, prices, [np.arange(len(values))], TIERS)
    for way in report.ways.values():
        assert way.aiq.value is not None
        assert -1e-9 <= way.aiq.value <= labels.max(axis=1).mean() + 1e-9
    each = np.array(prices)
    costs = [each[choose_by_price(values, each, weight)].mean() for weight in (0.0, 0.3, 1.0, 9.0)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(costs))
