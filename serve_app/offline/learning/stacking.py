"""Signals of the fast model on top of a prompt's score: a logistic map to P(fast right)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegressionCV
from threadpoolctl import threadpool_limits

from serve_app.offline.learning.metrics import Values

_PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.1, 1.0, 10.0, 100.0)
_FOLDS = 5
_SPREAD_MIN = 1e-9


def predict_right(
    features: Values, right: NDArray[np.bool_], others: Values, seed: int = 0
) -> Values:
    """P(right) of `others`, by a map fitted to `features`, whose ridge cross-validation chose."""
    mean, spread = features.mean(axis=0), np.maximum(features.std(axis=0), _SPREAD_MIN)
    rows = (features - mean) / spread
    with threadpool_limits(1):
        found = LogisticRegressionCV(
            Cs=_PENALTIES,
            cv=_FOLDS,
            scoring="neg_log_loss",
            max_iter=2000,
            random_state=seed,
        ).fit(rows, right)
    chances: Values = found.predict_proba((others - mean) / spread)[:, 1]
    return chances


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
