"""One lesson: new weights from labelled calls, and their value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from serve_app.offline.learning.comparison import Comparison, compare_gains
from serve_app.offline.learning.confidence import (
    CascadeReport,
    Drafts,
    learn_confidence,
    stack_features,
)
from serve_app.offline.learning.cost_quality import TiersReport, judge_tiers
from serve_app.offline.learning.fit import STRENGTHS, Fit, TrainingRows, fit, stack_ngrams, widen
from serve_app.offline.learning.groups import group_records
from serve_app.offline.learning.learning_errors import TooFewRecords
from serve_app.offline.learning.learnt import list_reserved, list_unseen, note_learnt
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
    """The measured value of scorers on the same records, by name, a cascade's threshold, and the
    choice among three tiers or more."""

    records: int
    groups: int
    fast_right: float
    strong_right: float
    scorers: Mapping[str, Measures]
    tasks: Mapping[str, TaskMeasures] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    cascade: CascadeReport | None = None
    tiers: TiersReport | None = None
    seen: int = 0
    """Calls that are not measured, because the weights know them or near-duplicates of them."""
    seen_unknown: bool = False
    """Whether the weights do not say what they know, so that the figures may flatter them."""

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

    What the weights in `prior` have learnt from is not measured: no fold would hold it out.

    Raises:
        TooFewRecords: there are fewer than RECORDS_MIN, or no gap between the models.
    """
    if options.tiers:
        prior = widen(prior, options.tiers)
    whole = build_sample(records.items, anchors, options)
    ours = [r for r, m in zip(records.items, whole.measured, strict=False) if m]
    _check_enough(ours, options)
    _check_labels(whole, options.tiers)
    unseen = _list_unseen(whole, records.items, prior)
    sample = _tune_by(whole, unseen)
    judged = whole.measured & unseen
    measured = [r for r, m in zip(records.items, judged, strict=False) if m]
    _check_unknown(measured)
    strengths = STRENGTHS if options.strength is None else (options.strength,)
    fitted = fit(sample, prior, options.folds, options.seed, strengths, options.term_freedom)
    outcomes = _outcomes(whole, judged)
    chances = {LEARNED: fitted.held_out[judged]}
    by_task = _fit_by_task(sample, records.items, prior, fitted.strength, options)
    if by_task is not None:
        chances[UNSEEN_TASKS] = by_task.held_out[judged]
    chances[PRIOR] = predict_chances(prior, measured)
    gains = {name: found[:, -1] - found[:, 0] for name, found in chances.items()}
    report = replace(
        _report(measured, outcomes, gains, gains, options),
        cascade=_learn_cascade(ours, _outcomes(whole, whole.measured), options),
        tiers=_judge_tiers(chances[LEARNED], measured, outcomes.groups, prior.map_gain, options),
        seen=len(ours) - len(measured),
        seen_unknown=prior.learnt is None,
    )
    weights = _sign(fitted.weights, records, report, len(ours))
    learnt = [r for r, out in zip(records.items, sample.reserved, strict=False) if not out]
    noted = None if prior.learnt is None else note_learnt(learnt, prior.learnt)
    return Lesson(replace(weights, learnt=noted), fitted.strength, report)


def evaluate_weights(
    records: Records, weights: RoutingWeights, name: str, options: Options
) -> Report:
    """Measure weights on the records that they have not learnt from; nothing is fitted.

    Raises:
        TooFewRecords: there are no such records, or no gap between the models.
    """
    ours = [r for r in records.items if _is_measured(r, options.pair)]
    if not ours:
        raise TooFewRecords("The records have no call of this pair with both verdicts.")
    _check_gap(ours)
    unseen = list_unseen(ours, _group(ours), weights.learnt)
    items = [record for record, new in zip(ours, unseen, strict=True) if new]
    _check_unknown(items)
    groups = _group(items)
    outcomes = Outcomes(_column(items, "fast"), _column(items, "strong"), groups)
    chances = predict_chances(weights, items)
    # The scores that route, in which a turn inherits from those before it.
    scores = {name: _score(LearnedScorer(weights), items)}
    gains = {name: chances[:, -1] - chances[:, 0]}
    report = replace(
        _report(items, outcomes, scores, gains, options),
        tiers=_judge_tiers(chances, items, groups, weights.map_gain, options),
    )
    return replace(report, seen=len(ours) - len(items), seen_unknown=weights.learnt is None)


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
    reserved = list_reserved(items, options.reserve_ratio)
    reserved[len(records) :] = False
    return TrainingRows(
        ngrams=stack_ngrams(vectors),
        terms=np.array([vector.terms for vector in vectors], dtype=np.float64),
        targets=_list_labels(items),
        importance=importance,
        groups=_group(items),
        measured=ours,
        reserved=reserved,
        tuning=~reserved,
    )


def _list_labels(records: Sequence[LabelledCall]) -> Values:
    """A column a tier, weakest first; NaN where a tier has no label."""
    rows = [(record.fast, *record.between, record.strong) for record in records]
    return np.array(rows, dtype=np.float64)


def _judge_tiers(
    chances: Values,
    records: Sequence[LabelledCall],
    groups: NDArray[np.int64],
    map_gain: Callable[[float], float],
    options: Options,
) -> TiersReport | None:
    """None without prices."""
    if not options.prices:
        return None
    labels = _list_labels(records)
    rows = np.isfinite(labels).all(axis=1)
    scores = np.array([map_gain(gain) for gain in chances[rows, -1] - chances[rows, 0]])
    draws = resample(groups[rows], options.resamples, options.seed)
    return judge_tiers(chances[rows], labels[rows], scores, options.prices, draws, options.tiers)


def _group(records: Sequence[LabelledCall]) -> NDArray[np.int64]:
    return group_records([r.text for r in records], [r.group for r in records])


def _list_unseen(
    sample: TrainingRows, records: Sequence[LabelledCall], prior: RoutingWeights
) -> NDArray[np.bool_]:
    """The rows that the weights to start from have not learnt from; anchors count as unseen."""
    unseen = np.ones(len(sample), dtype=bool)
    unseen[: len(records)] = list_unseen(records, sample.groups[: len(records)], prior.learnt)
    return unseen


def _tune_by(sample: TrainingRows, unseen: NDArray[np.bool_]) -> TrainingRows:
    """Choose strength and calibration by these rows, unless too few of them are left."""
    tuning = sample.tuning & unseen
    enough = int((tuning & sample.measured).sum()) >= RECORDS_MIN
    return replace(sample, tuning=tuning) if enough else sample


def predict_chances(weights: RoutingWeights, records: Sequence[LabelledCall]) -> Values:
    """P(right) of each head for the newest turn of each record."""
    chances = [weights.predict(observe(record.prompt)) for record in records]
    return np.array(chances, dtype=np.float64).reshape(-1, len(weights.heads))


def predict_gains(weights: RoutingWeights, records: Sequence[LabelledCall]) -> Values:
    """How much more often the strong model is expected to be right."""
    chances = predict_chances(weights, records)
    return chances[:, -1] - chances[:, 0]


def _is_measured(record: LabelledCall, pair: Pair | None) -> bool:
    return pair is None or record.pair is None or record.pair == pair


def _column(records: Sequence[LabelledCall], name: str) -> Values:
    return np.array([getattr(record, name) for record in records], dtype=np.float64)


def _outcomes(sample: TrainingRows, rows: NDArray[np.bool_]) -> Outcomes:
    return Outcomes(sample.targets[rows, 0], sample.targets[rows, -1], sample.groups[rows])


def _check_enough(records: Sequence[LabelledCall], options: Options) -> None:
    if len(records) < RECORDS_MIN:
        which = "" if options.pair is None else f" of the pair {', '.join(options.pair)}"
        raise TooFewRecords(
            f"{len(records)} records{which} with a verdict on both models; "
            f"learning needs {RECORDS_MIN}, and is useful from 300 on."
        )
    _check_gap(records)


def _check_labels(sample: TrainingRows, tiers: Sequence[str]) -> None:
    """Each head is learnt from the labels of its own tier."""
    counts = np.isfinite(sample.targets[sample.measured]).sum(axis=0)
    for tier, count in zip(tiers, counts, strict=False):
        if count < RECORDS_MIN:
            raise TooFewRecords(f"{count} records have a label of {tier}; {RECORDS_MIN} are needed")


def _check_unknown(records: Sequence[LabelledCall]) -> None:
    if not sum(r.strong for r in records) > sum(r.fast for r in records):
        raise TooFewRecords(
            "The weights have learnt from nearly all of these records, and the rest cannot say how "
            "good weights are. Measure on other records, or begin with other weights (--prior)."
        )


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


def _sign(weights: RoutingWeights, records: Records, report: Report, count: int) -> RoutingWeights:
    return replace(
        weights,
        provenance=Provenance(
            created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            records=count,
            records_sha256=records.sha256,
            apgr=report.apgr,
        ),
    )


def judge_weights(records: Records, weights: RoutingWeights, options: Options) -> float:
    """The APGR of weights on records. Records that they were learnt from flatter them."""
    items = [r for r in records.items if _is_measured(r, options.pair)]
    outcomes = Outcomes(_column(items, "fast"), _column(items, "strong"), np.arange(len(items)))
    return apgr(predict_gains(weights, items), outcomes)


def compare(
    records: Records, new: RoutingWeights, old: RoutingWeights, options: Options
) -> Comparison:
    """Judge two weights on the records that neither has learnt from."""
    unseen = list_unseen(records.items, _group(records.items), new.learnt, old.learnt)
    items = [r for r, left in zip(records.items, unseen, strict=True) if left]
    items = [r for r in items if _is_measured(r, options.pair)]
    outcomes = Outcomes(_column(items, "fast"), _column(items, "strong"), _group(items))
    gains = predict_gains(new, items), predict_gains(old, items)
    draws = resample(outcomes.groups, options.resamples, options.seed) if items else []
    known = new.learnt is not None and old.learnt is not None
    return compare_gains(*gains, outcomes, draws, known=known)
