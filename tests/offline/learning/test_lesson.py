"""What is learnt from labelled calls, and how honestly it is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.core.call import Prompt, Turn
from serve_app.offline.learning.anchors import draw_anchors
from serve_app.offline.learning.comparison import check_succession
from serve_app.offline.learning.fit import begin_weights, fit_heads, fold_rows, predict
from serve_app.offline.learning.learning_errors import TooFewRecords, WouldReplace
from serve_app.offline.learning.learnt import LEARNT_FROM_NOTHING, note_learnt
from serve_app.offline.learning.lesson import (
    LEARNED,
    LENGTH,
    RANDOM,
    UNSEEN_TASKS,
    Lesson,
    Report,
    build_sample,
    compare,
    evaluate_weights,
    judge_weights,
    learn,
)
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.records import Records
from serve_app.routing.confidence import DraftFeatures
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.vector import TERMS
from tests.offline.learning.fakes import draw_metals, draw_records

OPTIONS = Options(folds=2, resamples=30)
BEGIN = begin_weights()


def apgr_of(report: Report, name: str) -> float:
    value = report.scorers[name].apgr.value
    assert isinstance(value, float)
    return value


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    """Learnt from four hundred calls."""
    return learn(draw_records(400), [], BEGIN, OPTIONS)


def test_a_rule_is_learnt(lesson: Lesson) -> None:
    """Far above chance on held-out calls, and on others of the same kind; peers are not."""
    assert apgr_of(lesson.report, LEARNED) > 0.7
    assert apgr_of(lesson.report, LENGTH) < 0.6
    others = evaluate_weights(draw_records(300, seed=1), lesson.weights, "w", OPTIONS)
    assert apgr_of(others, "w") > 0.7
    copper, silver = (
        LearnedScorer(lesson.weights).score(Prompt((Turn("user", f"{metal} please"),)))
        for metal in ("copper", "silver")
    )
    assert copper > 0.5 > silver


def test_predicted_gains_are_calibrated(lesson: Lesson) -> None:
    """On calls that the fit has not seen, bins are off by a few points."""
    error = lesson.report.scorers[LEARNED].ece
    assert error is not None
    assert error.value is not None
    assert error.value < 0.12


def test_noise_is_not_learnt() -> None:
    """Labels without a rule give no better than chance, because judging is held out."""
    records = draw_records(400)
    labels = np.random.default_rng(5).permutation(400)
    shuffled = [
        replace(record, fast=records.items[i].fast, strong=records.items[i].strong)
        for record, i in zip(records.items, labels, strict=True)
    ]
    report = learn(Records(shuffled, "0"), [], BEGIN, OPTIONS).report
    interval = report.scorers[LEARNED].apgr.interval
    assert interval is not None
    assert interval.low < 0.5


def test_no_group_is_torn_apart() -> None:
    """Every row is held out once, with all of its group."""
    groups = np.repeat(np.arange(20), 5)
    folds = list(fold_rows(groups, 4, seed=0))
    assert len(folds) == 4
    assert sorted(np.concatenate(folds).tolist()) == list(range(100))
    assert all(set(groups[a]).isdisjoint(groups[b]) for a in folds for b in folds if a is not b)


def test_weak_data_leave_the_beginning_as_it_is() -> None:
    """The penalty is counted from the weights begun with: little data, little change."""
    sample = build_sample(draw_records(60).items, [], OPTIONS)
    barely = fit_heads(sample, BEGIN, strength=1e-6)
    assert np.abs(barely.ngrams).max() < 1e-3
    assert np.allclose(barely.terms, BEGIN.terms, atol=1e-2)


@pytest.mark.parametrize(("later", "low", "high"), [(30, 0.0, 0.7), (1000, 1.5, 5.0)])
def test_a_term_that_few_rows_have_stays_near_the_beginning(
    later: int, low: float, high: float
) -> None:
    """Thirty easy follow-ups say little of all later turns, a thousand of them say much."""
    first, earlier = draw_records(700).items, (Turn("user", "hello"), Turn("assistant", "hi"))
    follow_ups = [
        replace(record, prompt=Prompt((*earlier, *record.prompt.turns)), fast=1.0, strong=1.0)
        for record in draw_records(later, seed=1).items
    ]
    moved = fit_heads(build_sample([*first, *follow_ups], [], OPTIONS), BEGIN, 3.0)
    place = TERMS.index("turns")
    assert low < moved.terms[0, place] - BEGIN.terms[0, place] < high


def test_a_good_beginning_costs_nothing_where_labels_are_few(lesson: Lesson) -> None:
    """Beginning with weights learnt from the same traffic makes no less of sixty labels."""
    few, judge = draw_records(60, seed=3), draw_records(400, seed=4)
    cold = learn(few, [], BEGIN, OPTIONS).weights
    warm = learn(few, [], lesson.weights, OPTIONS).weights
    assert judge_weights(judge, warm, OPTIONS) > judge_weights(judge, cold, OPTIONS) - 0.02


def test_another_pair_helps_but_is_not_measured() -> None:
    """Only calls of the pair that is asked for are counted."""
    records = draw_records(200)
    ours = [replace(r, pair=("a", "b")) for r in records.items[:120]]
    theirs = [replace(r, pair=("c", "d")) for r in records.items[120:]]
    options = replace(OPTIONS, pair=("a", "b"))
    report = learn(Records([*ours, *theirs], "0"), [], BEGIN, options).report
    assert report.records == 120
    sample = build_sample([*ours, *theirs], draw_anchors(10), options)
    assert sample.importance[[0, 119, 120, 199]].tolist() == [1, 1, 0.3, 0.3]
    assert sample.measured.sum() == 120


def test_unseen_tasks_are_told_apart() -> None:
    """Where tasks are named, whole ones are held out too, and each is measured by itself."""
    items = [replace(r, task=f"task {i % 4}") for i, r in enumerate(draw_records(240).items)]
    report = learn(Records(items, "0"), [], BEGIN, OPTIONS).report
    assert UNSEEN_TASKS in report.scorers
    assert set(report.tasks) == {"task 0", "task 1", "task 2", "task 3"}
    assert RANDOM in report.scorers


def test_weights_are_not_flattered_by_their_own_records(lesson: Lesson) -> None:
    """They are measured on the records that were kept from them, and on others."""
    report = evaluate_weights(draw_records(400), lesson.weights, "w", OPTIONS)
    assert 300 < report.seen < 340
    assert report.records + report.seen == 400
    assert apgr_of(report, "w") < judge_weights(draw_records(400), lesson.weights, OPTIONS)
    assert evaluate_weights(draw_records(400, seed=1), lesson.weights, "w", OPTIONS).seen < 20


def test_a_lesson_is_not_measured_on_what_its_beginning_knows(lesson: Lesson) -> None:
    """No fold holds out what the weights begun with have learnt from."""
    again = learn(draw_records(400), [], lesson.weights, OPTIONS)
    assert 300 < again.report.seen < 340
    assert not again.report.seen_unknown
    unknown = learn(draw_records(400), [], replace(lesson.weights, learnt=None), OPTIONS)
    assert (unknown.report.seen, unknown.report.seen_unknown) == (0, True)
    assert unknown.weights.learnt is None
    everything = note_learnt(draw_records(400).items, LEARNT_FROM_NOTHING)
    with pytest.raises(TooFewRecords, match="nearly all of these records"):
        learn(draw_records(400), [], replace(lesson.weights, learnt=everything), OPTIONS)


def test_lessons_are_compared_on_what_neither_knows(lesson: Lesson) -> None:
    """A fifth of the records, on which more records give better weights."""
    few = learn(Records(draw_records(400).items[:60], ""), [], BEGIN, OPTIONS)
    found = compare(draw_records(400), lesson.weights, few.weights, OPTIONS)
    assert 60 < found.calls < 100
    assert found.known
    assert found.new is not None
    assert found.old is not None
    assert found.new > found.old
    assert found.old_better < 0.5
    older = replace(few.weights, learnt=None)
    assert not compare(draw_records(400), lesson.weights, older, OPTIONS).known


def test_a_growing_log_is_learnt_from_ten_times() -> None:
    """Each lesson may replace the one before, though that knows most of the same records; a lesson
    from the first records alone may not replace the last."""
    log, judge, path = draw_metals(900, seed=1), draw_metals(600, seed=2), Path("w.safetensors")
    held, found = BEGIN, []
    options = replace(OPTIONS, strength=3.0, resamples=300)
    for count in range(90, 901, 90):
        records = Records(log[:count], f"{count}")
        taught = learn(records, [], BEGIN, replace(options, resamples=5)).weights
        compared = compare(records, taught, held, options)
        check_succession(path, compared, count, held.provenance.records)
        held = taught
        found.append(judge_weights(Records(judge, ""), held, OPTIONS))
    assert found[-1] > found[0] + 0.05
    assert found[-1] > max(found) - 0.02
    first = learn(Records(log[:90], ""), [], BEGIN, OPTIONS).weights
    with pytest.raises(WouldReplace):
        check_succession(path, compare(Records(log, ""), first, held, OPTIONS), 90, 900)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (draw_records(49), "49 records with a verdict on both models"),
        (Records([replace(r, strong=0.0) for r in draw_records(60).items], ""), "no better"),
    ],
)
def test_too_little_is_refused(records: Records, words: str) -> None:
    """Too few calls, or no gap to route for."""
    with pytest.raises(TooFewRecords, match=words):
        learn(records, [], BEGIN, OPTIONS)


def test_log_odds_are_those_of_the_scorer(lesson: Lesson) -> None:
    """Fitting and serving see the same numbers."""
    records, weights = draw_records(60), lesson.weights
    sample = build_sample(records.items, [], OPTIONS)
    chances = 1 / (1 + np.exp(-predict(weights, sample)))
    for record, (fast, strong) in zip(records.items[:5], chances[:5], strict=True):
        score = LearnedScorer(weights).score(record.prompt)
        assert score == pytest.approx(weights.map_gain(strong - fast), abs=1e-4)


def test_a_cascade_is_learnt_where_drafts_are_known(lesson: Lesson) -> None:
    """From the same records, beside the scorer; without drafts there is no such report."""
    assert lesson.report.cascade is None
    rng = np.random.default_rng(0)
    items = [
        replace(r, draft=DraftFeatures(sure, sure))
        for r in draw_records(200).items
        for sure in [float(np.clip(0.2 + 0.6 * r.fast + rng.normal(0, 0.1), 0, 1))]
    ]
    cascade = learn(Records(items, "0"), [], BEGIN, OPTIONS).report.cascade
    assert cascade is not None
    assert cascade.drafts == 200
    assert cascade.auc > 0.9
