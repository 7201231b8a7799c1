"""What each signal adds to a prompt's score, on questions that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.core.call import Prompt
from serve_app.offline.evaluate.stats import Interval
from serve_app.offline.learning.anchors import draw_anchors
from serve_app.offline.learning.fit import STRENGTHS, fit
from serve_app.offline.learning.groups import group_records
from serve_app.offline.learning.lesson import build_sample, predict_gains
from serve_app.offline.learning.metrics import Outcomes, Values, apgr, resample
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.records import LabelledCall
from serve_app.offline.learning.stacking import auc_wrong, predict_right
from serve_app.offline.probing.labels import (
    CHECKED,
    MATCH,
    VOTES,
    Labeller,
    label_checked,
    label_match,
    label_votes,
)
from serve_app.offline.probing.questions import Part, Question
from serve_app.offline.probing.rows import Row
from serve_app.offline.probing.signals import SIGNALS, stack_signal
from serve_app.routing.weights import RoutingWeights, read_weights

CASCADE = "draft of 16 tokens"
PROMPT = "prompt only"
PERFECT = "the answer's own check"
OPTIONS = Options(reserve_ratio=0.0)
"""No calls are reserved: the parts keep apart what learns and what judges."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions with what the engines said of them."""

    questions: Sequence[Question]
    rows: Sequence[Row]

    def choose(self, part: Part, *, skill: str | None = None, without: str | None = None) -> Asked:
        """Those of one part, of one skill or of all but one."""
        chosen = [
            (question, row)
            for question, row in zip(self.questions, self.rows, strict=True)
            if question.part is part
            and skill in (None, question.skill)
            and question.skill != without
        ]
        return Asked([question for question, _ in chosen], [row for _, row in chosen])

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the fast model's answers are right."""
        return np.array([row.fast_right for row in self.rows])

    def label(self, labeller: Labeller) -> Sequence[LabelledCall]:
        """As records to learn from; rows without a label are left out."""
        pairs = zip(self.questions, self.rows, strict=True)
        labels = [(question, labeller(row)) for question, row in pairs]
        return [
            LabelledCall(Prompt(question.turns), *label)
            for question, label in labels
            if label is not None
        ]

    def outcomes(self) -> Outcomes:
        """To judge scores by; near-duplicates belong together."""
        groups = group_records([q.text for q in self.questions], [""] * len(self.questions))
        fast = np.array([row.fast_right for row in self.rows], dtype=np.float64)
        strong = np.array([row.strong_right for row in self.rows], dtype=np.float64)
        return Outcomes(fast, strong, groups)


@dataclass(frozen=True, slots=True)
class Found:
    """The worth of one score: the higher, the more a call needs the strong model.

    `gained` is its APGR less that of the prompt's score, `behind` less that of the cascade.
    """

    name: str
    apgr: float
    apgr_interval: Interval
    auc: float
    auc_interval: Interval
    gained: Interval | None = None
    behind: Interval | None = None


def learn_weights(
    asked: Asked, options: Options = OPTIONS, labeller: Labeller = label_checked
) -> RoutingWeights:
    """As `serve-app learn` fits them, from the shipped weights."""
    records = asked.label(labeller)
    sample = build_sample(records, draw_anchors(options.anchors), options)
    strengths = STRENGTHS if options.strength is None else (options.strength,)
    found = fit(
        sample, read_weights(), options.folds, options.seed, strengths, options.term_freedom
    )
    return found.weights


def score_looks(
    fitted: Asked, judged: Asked, weights: RoutingWeights | None
) -> Mapping[str, Values]:
    """The scores of the judged rows by each signal, on top of the weights' score, if any."""
    given = _gains(weights, fitted), _gains(weights, judged)
    scores: dict[str, Values] = {}
    if weights is not None:
        scores[PROMPT] = given[1][:, 0]
    for name, signal in SIGNALS.items():
        columns = stack_signal(signal, fitted.rows), stack_signal(signal, judged.rows)
        both = [np.hstack([own, column]) for own, column in zip(given, columns, strict=True)]
        scores[name] = 1 - predict_right(both[0], fitted.right, both[1])
    scores[PERFECT] = (~judged.right).astype(np.float64)
    return scores


def score_unseen(
    asked: Asked, shipped: RoutingWeights | None, options: Options = OPTIONS
) -> Mapping[str, Values]:
    """The same for test questions of kinds that neither weights nor maps have seen.

    `shipped` weights have seen none of the demo's kinds; without them the weights are learnt.
    """
    tested = asked.choose(Part.TEST)
    skills = np.array([question.skill for question in tested.questions])
    scores: dict[str, Values] = {}
    for skill in sorted(set(skills.tolist())):
        weights = shipped or learn_weights(asked.choose(Part.LEARN, without=skill), options)
        judged = asked.choose(Part.TEST, skill=skill)
        for name, values in score_looks(
            asked.choose(Part.FIT, without=skill), judged, weights
        ).items():
            scores.setdefault(name, np.zeros(len(skills)))[skills == skill] = values
    return scores


def score_lessons(asked: Asked, options: Options = OPTIONS) -> Mapping[str, Values]:
    """The scores of the test questions by weights that were learnt from each kind of label."""
    judged = asked.choose(Part.TEST)
    labellers = {CHECKED: label_checked, MATCH: label_match, VOTES: label_votes}
    return {
        name: _gains(learn_weights(asked.choose(Part.LEARN), options, labeller), judged)[:, 0]
        for name, labeller in labellers.items()
    }


def measure_looks(
    scores: Mapping[str, Values], judged: Asked, options: Options = OPTIONS
) -> Iterator[Found]:
    """Every score, with intervals over groups of near-duplicates."""
    outcomes, right = judged.outcomes(), judged.right
    draws = resample(outcomes.groups, options.resamples, options.seed)
    drawn = {
        name: np.array([apgr(values[d], outcomes.choose(d)) for d in draws])
        for name, values in scores.items()
    }
    base, cascade = drawn.get(PROMPT), drawn.get(CASCADE)
    for name, values in scores.items():
        aucs = np.array([auc_wrong(values[d], right[d]) for d in draws])
        yield Found(
            name,
            apgr(values, outcomes),
            _interval(drawn[name]),
            auc_wrong(values, right),
            _interval(aucs),
            None if base is None or name == PROMPT else _interval(drawn[name] - base),
            None
            if cascade is None or name in (CASCADE, PERFECT)
            else _interval(drawn[name] - cascade),
        )


def _gains(weights: RoutingWeights | None, asked: Asked) -> Values:
    if weights is None:
        return np.zeros((len(asked.rows), 0))
    return predict_gains(weights, asked.label(label_checked))[:, None]


def _interval(values: Values) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
