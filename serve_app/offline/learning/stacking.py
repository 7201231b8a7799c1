"""Signals of the fast model on top of a prompt's score: a logistic map to P(fast right)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from threadpoolctl import threadpool_limits

from serve_app.offline.learning.confidence import INVERSE_RIDGE
from serve_app.offline.learning.metrics import Values

FEW_COLUMNS = 10
_INVERSE_RIDGES = (0.001, 0.01, 0.1, 1.0)
"""For many columns, such as a hidden state; cross-validation chooses."""
_FOLDS = 5
_SPREAD_MIN = 1e-9


def predict_right(features: Values, right: NDArray[np.bool_], others: Values) -> Values:
    """P(right) of `others`, by a map that was fitted to `features`."""
    mean, spread = features.mean(axis=0), np.maximum(features.std(axis=0), _SPREAD_MIN)
    rows = (features - mean) / spread
    with threadpool_limits(1):  # on a busy machine BLAS's threads would wait for each other
        model = _build(_choose_ridge(rows, right)).fit(rows, right)
    chances: Values = model.predict_proba((others - mean) / spread)[:, 1]
    return chances


def _choose_ridge(rows: Values, right: NDArray[np.bool_]) -> float:
    if rows.shape[1] <= FEW_COLUMNS:
        return INVERSE_RIDGE
    scores = {
        ridge: cross_val_score(_build(ridge), rows, right, cv=_FOLDS, scoring="neg_log_loss").mean()
        for ridge in _INVERSE_RIDGES
    }
    return max(scores, key=lambda ridge: scores[ridge])


def _build(inverse_ridge: float) -> LogisticRegression:
    return LogisticRegression(C=inverse_ridge, max_iter=2000)


def auc_wrong(scores: Values, right: NDArray[np.bool_]) -> float:
    """How well the scores find the calls that the fast model gets wrong; 0.5 is chance.

    By ranks, because a bootstrap asks thousands of times. NaN where all are right, or all wrong.
    """
    wrong = len(right) - int(right.sum())
    pairs = wrong * (len(right) - wrong)
    if not pairs:
        return float("nan")
    ranks = rankdata(scores)[~right].sum() - wrong * (wrong + 1) / 2
    return float(ranks / pairs)
