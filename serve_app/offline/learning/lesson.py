"""One lesson: new weights from labelled calls, and their value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from serve_app.offline.learning.confidence import (
    CascadeReport,
    Drafts,
    learn_confidence,
    stack_features,
)
from serve_app.offline.learning.fit import STRENGTHS, Fit, TrainingRows, fit, stack_ngrams
from serve_app.offline.learning.groups import group_records
from serve_app.offline.learning.learning_errors import TooFewRecords
from serve_app.offline.learning.metrics import (
    Measures,
    Outcomes,
    Values,
    apgr,
    measure,
    random_scores,
    recover,
    resample,
)
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.records import LabelledCall, Pair, Records
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.scorer import HeuristicScorer, Scorer
from serve_app.routing.vector import observe
from serve_app.routing.weights import Provenance, RoutingWeights

RECORDS_MIN = 50
_TASK_RECORDS_MIN = 50
_TASKS_MIN = 3

LEARNED = "learned, cross-validated"
UNSEEN_TASKS = "learned, on tasks unseen in training"
PRIOR = "the weights started from"
HEURISTIC = "heuristic"
LENGTH = "prompt length"
RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Curve:
    """The share of right answers over the share of strong calls, for the picture."""

    shares: Sequence[float]
    right: Sequence[float]


@dataclass(frozen=True, slots=True)
class TaskMeasures:
    """The results for one kind of call; `apgr` is None if the strong model has no lead."""

    records: int
    fast_right: float
    strong_right: float
    apgr: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """The measured value of scorers on the same records, by name, and a cascade's threshold."""

    records: int
    groups: int
    fast_right: float
    strong_right: float
    scorers: Mapping[str, Measures]
    tasks: Mapping[str, TaskMeasures] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    cascade: CascadeReport | None = None

    @property
    def apgr(self) -> float | None:
        """The APGR of the first scorer."""
        return next(iter(self.scorers.values())).apgr.value


@dataclass(frozen=True, slots=True)
class Lesson:
    """New weights and their report."""

    weights: RoutingWeights
    strength: float
    report: Report


def learn(
    records: Records, anchors: Sequence[LabelledCall], prior: RoutingWeights, options: Options
) -> Lesson:
    """Fit new weights, and judge the method on records that were held out.

    Raises:
        TooFewRecords: there are fewer than RECORDS_MIN, or no gap between the models.
    """
    sample = build_sample(records.items, anchors, options)
    measured = [r for r, m in zip(records.items, sample.measured, strict=False) if m]
    _check_enough(measured, options)
    strengths = STRENGTHS if options.strength is None else (options.strength,)
    fitted = fit(sample, prior, options.folds, options.seed, strengths, options.term_freedom)
    outcomes = _outcomes(sample)
    chances = {LEARNED: fitted.held_out[sample.measured]}
    unseen = _fit_by_task(sample, records.items, prior, fitted.strength, options)
    if unseen is not None:
        chances[UNSEEN_TASKS] = unseen.held_out[sample.measured]
    chances[PRIOR] = predict_chances(prior, measured)
    gains = {name: both[:, 1] - both[:, 0] for name, both in chances.items()}
    report = replace(
        _report(measured, outcomes, gains, gains, options),
        cascade=_learn_cascade(measured, outcomes, options),
    )
    return Lesson(_sign(fitted.weights, records, report), fitted.strength, report)


def evaluate_weights(
    records: Records, weights: RoutingWeights, name: str, options: Options
) -> Report:
    """Measure weights on records; nothing is fitted.

    Raises:
        TooFewRecords: there are no records, or no gap between the models.
    """
    items = [r for r in records.items if _is_measured(r, options.pair)]
    if not items:
        raise TooFewRecords("The records have no call of this pair with both verdicts.")
    _check_gap(items)
    groups = group_records([r.text for r in items], [r.group for r in items])
    outcomes = Outcomes(_column(items, "fast"), _column(items, "strong"), groups)
    chances = predict_chances(weights, items)
    # The scores that route, in which a turn inherits from those before it.
    scores = {name: _score(LearnedScorer(weights), items)}
    gains = {name: chances[:, 1] - chances[:, 0]}
    return _report(items, outcomes, scores, gains, options)


def build_sample(
    records: Sequence[LabelledCall], anchors: Sequence[LabelledCall], options: Options
) -> TrainingRows:
    """Records first, then anchors."""
    items = [*records, *anchors]
    vectors = [observe(record.prompt) for record in items]
    ours = np.array([_is_measured(record, options.pair) for record in items])
    ours[len(records) :] = False
    importance = np.where(ours, 1.0, options.other_pair_weight)
    importance[len(records) :] = 1.0
    return TrainingRows(
        ngrams=stack_ngrams(vectors),
        terms=np.array([vector.terms for vector in vectors], dtype=np.float64),
        targets=np.stack([_column(items, "fast"), _column(items, "strong")], axis=1),
        importance=importance,
        groups=group_records([r.text for r in items], [r.group for r in items]),
        measured=ours,
    )


def predict_chances(weights: RoutingWeights, records: Sequence[LabelledCall]) -> Values:
    """P(right) of fast and strong for the newest turn of each record."""
    return np.array([weights.predict(observe(record.prompt)) for record in records])


def _is_measured(record: LabelledCall, pair: Pair | None) -> bool:
    return pair is None or record.pair is None or record.pair == pair


def _column(records: Sequence[LabelledCall], name: str) -> Values:
    return np.array([getattr(record, name) for record in records], dtype=np.float64)


def _outcomes(sample: TrainingRows) -> Outcomes:
    rows = sample.measured
    return Outcomes(sample.targets[rows, 0], sample.targets[rows, 1], sample.groups[rows])


def _check_enough(records: Sequence[LabelledCall], options: Options) -> None:
    if len(records) < RECORDS_MIN:
        which = "" if options.pair is None else f" of the pair {', '.join(options.pair)}"
        raise TooFewRecords(
            f"{len(records)} records{which} with a verdict on both models; "
            f"learning needs {RECORDS_MIN}, and is useful from 300 on."
        )
    _check_gap(records)


def _check_gap(records: Sequence[LabelledCall]) -> None:
    if sum(r.strong for r in records) <= sum(r.fast for r in records):
        raise TooFewRecords(
            "On these records the strong model is no better than the fast model, so routing has "
            "no gain. Are small_score and large_score swapped?"
        )


def _learn_cascade(
    records: Sequence[LabelledCall], outcomes: Outcomes, options: Options
) -> CascadeReport | None:
    """None where too few records say how sure the fast model was."""
    rows = np.array([record.draft is not None for record in records], dtype=bool)
    chosen = outcomes.choose(rows)
    features = stack_features([record.draft for record in records if record.draft is not None])
    drafts = Drafts(features, chosen.fast, chosen.strong, chosen.groups)
    return learn_confidence(drafts, options.quality_min, options.folds) if drafts.enough else None


def _fit_by_task(
    sample: TrainingRows,
    records: Sequence[LabelledCall],
    prior: RoutingWeights,
    strength: float,
    options: Options,
) -> Fit | None:
    """The same with whole tasks held out: what new kinds of questions would meet."""
    tasks = [record.task for record in records]
    named = {t for t, ours in zip(tasks, sample.measured, strict=False) if ours and t}
    if len(named) < _TASKS_MIN:
        return None
    anchors = len(sample) - len(records)
    numbers: NDArray[np.int64] = np.unique(
        [task or f"#{index}" for index, task in enumerate(tasks)] + ["anchors"] * anchors,
        return_inverse=True,
    )[1]
    by_task = replace(sample, groups=numbers)
    return fit(by_task, prior, options.folds, options.seed, (strength,), options.term_freedom)


def _report(
    records: Sequence[LabelledCall],
    outcomes: Outcomes,
    scores: Mapping[str, Values],
    gains: Mapping[str, Values],
    options: Options,
) -> Report:
    draws = resample(outcomes.groups, options.resamples, options.seed)
    measures = {
        name: measure(values, outcomes, gains[name], draws) for name, values in scores.items()
    }
    peers = {
        HEURISTIC: _score(HeuristicScorer(), records),
        LENGTH: np.array([float(len(record.text)) for record in records]),
        RANDOM: random_scores(len(records), options.seed),
    }
    measures |= {name: measure(values, outcomes, draws=draws) for name, values in peers.items()}
    first = next(iter(scores))
    return Report(
        records=len(records),
        groups=len(np.unique(outcomes.groups)),
        fast_right=float(outcomes.fast.mean()),
        strong_right=float(outcomes.strong.mean()),
        scorers=measures,
        tasks=_measure_tasks(records, outcomes, scores[first]),
        curves={
            name: _curve(values, outcomes)
            for name, values in {**scores, **peers}.items()
            if name in (first, PRIOR, LENGTH)
        },
    )


def _score(scorer: Scorer, records: Sequence[LabelledCall]) -> Values:
    return np.array([scorer.score(record.prompt) for record in records])


def _measure_tasks(
    records: Sequence[LabelledCall], outcomes: Outcomes, scores: Values
) -> Mapping[str, TaskMeasures]:
    """Each task by itself: there a scorer can no longer shine by telling the tasks apart."""
    tasks = np.array([record.task for record in records])
    found = {}
    for task, count in sorted(Counter(tasks.tolist()).items()):
        if not task or count < _TASK_RECORDS_MIN:
            continue
        rows = tasks == task
        chosen = outcomes.choose(rows)
        gap = float((chosen.strong - chosen.fast).mean())
        found[task] = TaskMeasures(
            records=count,
            fast_right=float(chosen.fast.mean()),
            strong_right=float(chosen.strong.mean()),
            apgr=apgr(scores[rows], chosen) if gap > 0 else None,
        )
    return found


def _curve(scores: Values, outcomes: Outcomes) -> Curve:
    shares, parts = recover(scores, outcomes)
    fast, strong = outcomes.fast.mean(), outcomes.strong.mean()
    return Curve(shares.tolist(), (fast + parts * (strong - fast)).tolist())


def _sign(weights: RoutingWeights, records: Records, report: Report) -> RoutingWeights:
    return replace(
        weights,
        provenance=Provenance(
            created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            records=report.records,
            records_sha256=records.sha256,
            apgr=report.apgr,
        ),
    )


def judge_weights(records: Records, weights: RoutingWeights, options: Options) -> float:
    """The APGR of weights on records, to be held against new ones.

    Those they were learnt from flatter them, so for these their cross-validated APGR counts.
    """
    known = weights.provenance
    if known.records_sha256 == records.sha256 and known.apgr is not None:
        return known.apgr
    items = [r for r in records.items if _is_measured(r, options.pair)]
    chances = predict_chances(weights, items)
    groups = np.arange(len(items))
    outcomes = Outcomes(_column(items, "fast"), _column(items, "strong"), groups)
    return apgr(chances[:, 1] - chances[:, 0], outcomes)
