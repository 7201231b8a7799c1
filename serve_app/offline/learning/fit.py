"""Fit a head for each tier: logistic regressions, drawn towards existing weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from serve_app.offline.learning.learnt import LEARNT_FROM_NOTHING
from serve_app.offline.learning.metrics import Values
from serve_app.offline.learning.options import Options
from serve_app.routing.ngrams import BUCKETS
from serve_app.routing.vector import TERMS, Vector, weigh_terms
from serve_app.routing.weights import HEADS, RoutingWeights

STRENGTHS = (1.0, 3.0)
"""How far the data may move the weights: the inverse of the penalty. Cross-validation chooses."""

LENGTH_SLOPES = (-1.0, -0.2)
"""Of both heads, over the logarithm of the length: chosen by leaving whole sources out."""

_TERM_FREEDOM = Options().term_freedom
_SPREAD_MIN = 0.1
_JOINT = 1.0
"""How far labels may move the slopes by which a head looks at other heads."""
_SUPPORT_ROWS = 100.0
"""So many rows let a term move half as far as its spread allows."""
_ITERATIONS_MAX = 150


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Labelled vectors, a row each.

    `targets` has a column a head, of labels 0..1, and NaN where a tier has no label. `groups` says
    what must not be torn apart.
    `measured` are the rows that count when a fit is judged; the others only help to fit.
    `reserved` are the rows that no fit learns from. `tuning` are the rows that strength and
    calibration are chosen by: neither reserved, nor known to the weights that a fit starts from.
    """

    ngrams: csr_matrix
    terms: Values
    targets: Values
    importance: Values
    groups: NDArray[np.int64]
    measured: NDArray[np.bool_]
    reserved: NDArray[np.bool_]
    tuning: NDArray[np.bool_]

    @property
    def learnt(self) -> NDArray[np.int64]:
        """The rows that are learnt from."""
        return np.flatnonzero(~self.reserved)

    def __len__(self) -> int:
        return len(self.targets)

    def choose(self, rows: NDArray[np.int64]) -> TrainingRows:
        """Some of the rows."""
        return TrainingRows(
            self.ngrams[rows],
            self.terms[rows],
            self.targets[rows],
            self.importance[rows],
            self.groups[rows],
            self.measured[rows],
            self.reserved[rows],
            self.tuning[rows],
        )


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights, and their predictions for rows that they have not seen (calibrated, a column per
    head).

    `strength` is the value that cross-validation chose.
    """

    weights: RoutingWeights
    held_out: Values
    strength: float


def stack_ngrams(vectors: Sequence[Vector]) -> csr_matrix:
    """The n-gram values of many vectors, sparse."""
    columns = [vector.buckets for vector in vectors]
    values = np.concatenate([vector.values for vector in vectors])
    pointers = np.cumsum([0, *map(len, columns)])
    return csr_matrix((values, np.concatenate(columns), pointers), (len(vectors), BUCKETS))


def begin_weights() -> RoutingWeights:
    """Where learning starts without any labels: the heuristic and the length, as two heads.

    What it takes for hard lowers both chances, the fast model's more. At its score of 0.5 the
    strong model is given ten points more, at its score of an everyday ask two or three. On kinds
    of questions that no weights have learnt, length orders better than anything that was learnt.
    """
    evidence = weigh_terms()
    terms = np.stack([-0.6 * evidence, -0.3 * evidence])
    terms[:, TERMS.index("log_chars")] = LENGTH_SLOPES
    return RoutingWeights(
        ngrams=np.zeros((len(HEADS), BUCKETS), np.float32),
        terms=terms.astype(np.float32),
        intercepts=np.array([2.1, 2.35], np.float32),
        learnt=LEARNT_FROM_NOTHING,
    )


def widen(prior: RoutingWeights, tiers: Sequence[str]) -> RoutingWeights:
    """Weights with a head for each of these tiers, to start from.

    Heads of other tiers are stretched: a tier between two heads begins between them.
    """
    if prior.heads == tuple(tiers):
        return prior
    places = np.linspace(0, len(prior.heads) - 1, len(tiers))
    low = np.minimum(places.astype(np.int64), len(prior.heads) - 2)
    part = (places - low).astype(np.float32)

    def stretch(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        share = part.reshape(-1, *[1] * (rows.ndim - 1))
        stretched: NDArray[np.float32] = (1 - share) * rows[low] + share * rows[low + 1]
        return stretched

    return replace(
        prior,
        ngrams=stretch(prior.ngrams),
        terms=stretch(prior.terms),
        intercepts=stretch(prior.intercepts),
        heads=tuple(tiers),
    )


def predict(weights: RoutingWeights, sample: TrainingRows) -> Values:
    """The log-odds of every row, a column a head."""
    log_odds: Values = (
        sample.ngrams @ weights.ngrams.T + sample.terms @ weights.terms.T + weights.intercepts
    )
    return log_odds


def fit_heads(
    sample: TrainingRows,
    prior: RoutingWeights,
    strength: float,
    term_freedom: float = _TERM_FREEDOM,
) -> RoutingWeights:
    """All heads on the whole sample; `term_freedom` is how far terms may move beside n-grams."""
    scales = term_freedom * _measure_freedom(sample)
    features = hstack([sample.ngrams, csr_matrix(sample.terms * scales)]).tocsr()
    start = predict(prior, sample)
    moves = np.stack(
        [
            _fit_head(
                features[rows],
                sample.targets[rows, head],
                sample.importance[rows],
                start[rows, head],
                strength,
            )
            for head, rows in enumerate(_list_labelled(sample))
        ]
    )
    return replace(
        prior,
        ngrams=(prior.ngrams + moves[:, :BUCKETS]).astype(np.float32),
        terms=(prior.terms + moves[:, BUCKETS:-1] * scales).astype(np.float32),
        intercepts=(prior.intercepts + moves[:, -1]).astype(np.float32),
    )


def _list_labelled(sample: TrainingRows) -> Sequence[NDArray[np.int64]]:
    """The rows with a label of each head."""
    return [np.flatnonzero(labelled) for labelled in np.isfinite(sample.targets).T]


def _measure_freedom(sample: TrainingRows) -> Values:
    """How far each term may move: the more, the less it varies and the more rows tell of it.

    Without the rows, the rarest terms would be the freest. What 30 second turns say of a term would
    be carried on to the fifth turn.
    """
    rows = np.array([_count_unusual(column, sample.importance) for column in sample.terms.T])
    spread = np.maximum(sample.terms.std(axis=0), _SPREAD_MIN)
    freedom: Values = rows / (rows + _SUPPORT_ROWS) / spread
    return freedom


def _count_unusual(column: Values, importance: Values) -> float:
    """The importance of the rows whose value is not the most frequent one."""
    _, places = np.unique(column, return_inverse=True)
    return float(importance.sum() - np.bincount(places, importance).max())


def _fit_head(
    features: csr_matrix, targets: Values, importance: Values, start: Values, strength: float
) -> Values:
    """How far to move each weight, and last the intercept, which costs nothing to move.

    scikit-learn's LogisticRegression knows neither a starting point that the penalty is counted
    from nor labels between 0 and 1; the minimiser beneath it does.
    """
    # The data say nothing of an n-gram that no row has: its weight stays where it is.
    seen = np.flatnonzero(features.getnnz(axis=0))
    rows = features[:, seen]
    transposed = rows.T.tocsr()

    def loss(moves: Values) -> tuple[float, Values]:
        log_odds = start + rows @ moves[:-1] + moves[-1]
        misfit = importance @ (np.logaddexp(0.0, log_odds) - targets * log_odds)
        residual = importance * (expit(log_odds) - targets)
        gradient = np.append(transposed @ residual + moves[:-1] / strength, residual.sum())
        return float(misfit + moves[:-1] @ moves[:-1] / (2 * strength)), gradient

    begin = np.zeros(len(seen) + 1)
    limit = {"maxiter": _ITERATIONS_MAX}
    with threadpool_limits(1):  # on a busy machine BLAS's threads would wait for each other
        found = minimize(loss, begin, jac=True, method="L-BFGS-B", options=limit)
    moves: Values = np.zeros(features.shape[1] + 1)
    moves[np.append(seen, -1)] = found.x
    return moves


def fold_rows(groups: NDArray[np.int64], folds: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The rows that are held out in each fold; a group is never in two of them."""
    splitter = GroupKFold(min(folds, len(np.unique(groups))), shuffle=True, random_state=seed)
    for _, held_out in splitter.split(np.zeros(len(groups)), groups=groups):
        yield held_out


def fit(
    sample: TrainingRows,
    prior: RoutingWeights,
    folds: int,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    term_freedom: float = _TERM_FREEDOM,
) -> Fit:
    """Chooses the strength by cross-validation, fits on all but the reserved rows, and
    calibrates."""
    parts = list(fold_rows(sample.groups, folds, seed))
    tried = {s: predict_held_out(sample, prior, s, parts, term_freedom) for s in strengths}
    strength = min(tried, key=lambda s: log_loss(tried[s], sample))
    log_odds = tried[strength]
    weights = fit_heads(sample.choose(sample.learnt), prior, strength, term_freedom)
    weights = calibrate(weights, _fit_scaling(log_odds, sample))
    return Fit(weights, _calibrate_held_out(log_odds, sample, parts), strength)


def predict_held_out(
    sample: TrainingRows,
    prior: RoutingWeights,
    strength: float,
    parts: Sequence[NDArray[np.int64]],
    term_freedom: float = _TERM_FREEDOM,
) -> Values:
    """The log-odds that each row is given by a fit without its group."""
    log_odds = np.zeros(sample.targets.shape)
    for held_out in parts:
        others = np.setdiff1d(sample.learnt, held_out)
        weights = fit_heads(sample.choose(others), prior, strength, term_freedom)
        log_odds[held_out] = predict(weights, sample.choose(held_out))
    return log_odds


def log_loss(log_odds: Values, sample: TrainingRows) -> float:
    """Of all heads, on the rows that count and that may be chosen by."""
    rows = sample.measured & sample.tuning
    losses = np.logaddexp(0.0, log_odds[rows]) - sample.targets[rows] * log_odds[rows]
    return float(np.nanmean(losses))


def calibrate(weights: RoutingWeights, scaling: Values) -> RoutingWeights:
    """Stretches and shifts each head's log-odds: Platt's scaling, folded into the weights."""
    slopes, shifts = scaling[:, :-1], scaling[:, -1]
    return replace(
        weights,
        ngrams=(slopes @ weights.ngrams).astype(np.float32),
        terms=(slopes @ weights.terms).astype(np.float32),
        intercepts=(slopes @ weights.intercepts + shifts).astype(np.float32),
    )


def _fit_scaling(log_odds: Values, sample: TrainingRows) -> Values:
    """The slopes and the shift of each head, from log-odds of rows that the fit had not seen.

    Of two heads each has a slope of its own. Of more each also looks at the others, because small
    differences between neighbours decide then, and what one head has by chance the others lack.

    From all that count in full, anchors too: what suits one kind of traffic alone would push all
    other traffic over the threshold.
    """
    whole = np.flatnonzero((sample.importance == 1.0) & sample.tuning)
    scaling = []
    for head, labelled in enumerate(_list_labelled(sample)):
        rows = np.intersect1d(whole, labelled)
        seen, targets = log_odds[rows], sample.targets[rows, head]
        slope, shift = _platt(seen[:, head], targets, sample.importance[rows])
        line = np.append(slope * np.eye(log_odds.shape[1])[head], shift)
        if log_odds.shape[1] > len(HEADS):
            start = slope * seen[:, head] + shift
            line += _fit_head(csr_matrix(seen), targets, sample.importance[rows], start, _JOINT)
        scaling.append(line)
    return np.array(scaling)


def _platt(log_odds: Values, targets: Values, importance: Values) -> tuple[float, float]:
    """The row twice, once as right and once as wrong, is what a label in between says."""
    labels = np.repeat([1, 0], len(targets))
    shares = np.concatenate([targets * importance, (1 - targets) * importance])
    if min(shares[labels == 1].sum(), shares[labels == 0].sum()) == 0:
        return 1.0, 0.0  # all right or all wrong: nothing to scale by
    model = LogisticRegression(C=1e3)
    model.fit(np.tile(log_odds, 2)[:, None], labels, sample_weight=shares)
    # A head that is worse than chance on unseen rows must not be turned round.
    return max(float(model.coef_[0, 0]), 0.05), float(model.intercept_[0])


def _calibrate_held_out(
    log_odds: Values, sample: TrainingRows, parts: Sequence[NDArray[np.int64]]
) -> Values:
    """Probabilities of each row, scaled by what the other folds' rows say."""
    chances = np.zeros(log_odds.shape)
    for held_out in parts:
        others = np.setdiff1d(np.arange(len(sample)), held_out)
        scaling = _fit_scaling(log_odds[others], sample.choose(others))
        chances[held_out] = expit(log_odds[held_out] @ scaling[:, :-1].T + scaling[:, -1])
    return chances
