"""What a signal adds, on rows that follow a rule."""

from __future__ import annotations

import numpy as np

from serve_app.offline.learning.stacking import auc_wrong, predict_right
from serve_app.offline.probing.checkpoints import judge_checkpoints
from serve_app.offline.probing.looks import (
    CASCADE,
    OPTIONS,
    PERFECT,
    PROMPT,
    Asked,
    measure_looks,
    score_looks,
)
from serve_app.offline.probing.questions import Part, draw_questions
from serve_app.routing.weights import read_weights
from tests.offline.probing.fakes import draw_rows


def test_a_signal_that_tells_is_found() -> None:
    """Drafts separate right answers from wrong ones here; a first token that is always the same
    adds nothing to the prompt's score."""
    questions = list(draw_questions(0.2))
    asked = Asked(questions, draw_rows(questions))
    judged = asked.choose(Part.TEST)
    scores = score_looks(asked.choose(Part.FIT), judged, read_weights())
    found = {each.name: each for each in measure_looks(scores, judged)}
    assert found[CASCADE].auc > 0.99
    gained = found[CASCADE].gained
    assert gained is not None
    assert gained.low > 0
    assert found["entropy of the first token"].auc < 0.7
    assert found[PROMPT].gained is None
    assert found[PERFECT].apgr >= found[CASCADE].apgr


def test_questions_are_chosen_by_part_and_skill() -> None:
    """With one skill, or without it."""
    questions = list(draw_questions(0.05))
    asked = Asked(questions, draw_rows(questions))
    units = asked.choose(Part.TEST, skill="units")
    others = asked.choose(Part.TEST, without="units")
    assert {question.skill for question in units.questions} == {"units"}
    assert len(units.rows) + len(others.rows) == len(asked.choose(Part.TEST).rows)


def test_auc_by_ranks() -> None:
    """Ties count half; without right or wrong answers there is none."""
    right = np.array([False, False, True, True])
    assert auc_wrong(np.array([3.0, 1.0, 1.0, 0.0]), right) == 0.875
    assert np.isnan(auc_wrong(np.array([1.0, 2.0]), np.array([True, True])))


def test_a_map_of_separable_signals_stays_finite() -> None:
    """The ridge keeps the weights of a perfect signal finite, and a constant column is harmless."""
    features = np.array([[float(n), 1.0] for n in range(40)])
    chances = predict_right(features, features[:, 0] >= 20, features)
    assert np.isfinite(chances).all()
    assert chances[:10].max() < 0.5 < chances[30:].min()


def test_a_checkpoint_keeps_the_quality_that_chose_it() -> None:
    """Drafts tell right from wrong here, so a third goes to strong, and all answers are right."""
    questions = list(draw_questions(0.2))
    asked = Asked(questions, draw_rows(questions))
    found = judge_checkpoints(asked.choose(Part.FIT), asked.choose(Part.TEST), OPTIONS)
    for each in found:
        assert each.report.of_strong > 0.95
        assert 0.2 < each.report.escalated_ratio < 0.5
        assert each.discarded == each.tokens
