"""How good weights become with so many labels, drawn at random or chosen.

    PYTHONPATH=.:tools python tools/label_curve.py pairs-train.jsonl --source MMLU-Pro --splits 20

Each split holds out a fifth of the questions. Chosen labels come in batches: those with the highest
product of the variance of the predicted gain and the squared density of the question.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from leave_source_out import read_sources
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.decomposition import TruncatedSVD

from serve_app.offline.learning.anchors import draw_anchors
from serve_app.offline.learning.fit import TrainingRows, begin_weights, fit_heads, predict
from serve_app.offline.learning.lesson import build_sample
from serve_app.offline.learning.metrics import Outcomes, Values, apgr
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.records import LabelledCall
from serve_app.routing.vector import TEXT_TERMS
from serve_app.routing.weights import HEADS, RoutingWeights

Rows = NDArray[np.int64]

SIZES = (100, 300, 400, 1000, 3000)
ANCHORS = 600
STRENGTH = 3.0
FIRST_SEED = 100
_SPREAD_MIN, _TERM_SCALE, _DENSITY_MIN, _NEIGHBOURS = 0.1, 0.15, 0.05, 20


@dataclass(frozen=True)
class Pool:
    """Labelled questions, and a dense unit-length view of each that densities are measured in."""

    sample: TrainingRows
    count: int
    views: Values

    def train(self, labelled: Rows) -> RoutingWeights:
        """Weights from these questions and the anchors."""
        rows = np.append(labelled, np.arange(self.count, len(self.sample)))
        return fit_heads(self.sample.choose(rows), begin_weights(), STRENGTH)

    def predict(self, weights: RoutingWeights, rows: Rows) -> Values:
        """P(right), a column a head."""
        return np.asarray(expit(predict(weights, self.sample.choose(rows))))


def build_pool(records: Sequence[LabelledCall], singular: int = 48) -> Pool:
    """Views are singular vectors of the n-grams, and the terms of the text."""
    count = len(records)
    sample = build_sample(records, draw_anchors(ANCHORS), Options(reserve_ratio=0))
    grams = TruncatedSVD(singular, random_state=0).fit_transform(sample.ngrams[:count])
    grams /= np.maximum(np.linalg.norm(grams, axis=1, keepdims=True), 1e-9)
    terms = sample.terms[:count, : len(TEXT_TERMS)]
    terms = (terms - terms.mean(axis=0)) / np.maximum(terms.std(axis=0), _SPREAD_MIN)
    return Pool(sample, count, np.hstack([grams, _TERM_SCALE * terms]))


def measure_densities(views: Values) -> Values:
    """The mean cosine to the nearest others, counted from the least."""
    units = views / np.linalg.norm(views, axis=1, keepdims=True)
    near = np.sort(units @ units.T, axis=1)[:, -_NEIGHBOURS - 1 : -1].mean(axis=1)
    return np.asarray(near - near.min() + _DENSITY_MIN)


def measure_doubt(pool: Pool, labelled: Rows, rows: Rows) -> Values:
    """The variance of the predicted gain of rows, by Laplace's approximation of both heads."""
    weights = pool.train(labelled)
    known, asked = pool.predict(weights, labelled), pool.predict(weights, rows)
    seen, views, doubt = pool.views[labelled], pool.views[rows], np.zeros(len(rows))
    for head in range(len(HEADS)):
        open_known = known[:, head] * (1 - known[:, head])
        precision = (seen * open_known[:, None]).T @ seen + np.eye(seen.shape[1]) / STRENGTH
        spread = np.einsum("ij,ij->i", views @ np.linalg.inv(precision), views)
        doubt += (asked[:, head] * (1 - asked[:, head])) ** 2 * spread
    return doubt


def label(
    pool: Pool, rows: Rows, batch: int, seed: int, densities: Values | None
) -> Iterator[NDArray[np.int64]]:
    """The labelled rows after each batch; at random if there are no densities."""
    rng, labelled = np.random.default_rng(seed), np.array([], dtype=np.int64)
    while len(labelled) < len(rows):
        left = np.setdiff1d(rows, labelled)
        chosen = rng.permutation(left)
        if densities is not None and len(labelled):
            half = chosen[: max(batch, len(left) // 2)]
            worth = measure_doubt(pool, labelled, half)
            worth *= densities[np.searchsorted(rows, half)] ** 2
            chosen = half[np.argsort(-worth)]
        labelled = np.append(labelled, chosen[:batch])
        yield labelled


def measure_split(pool: Pool, batch: int, seed: int, sizes: Sequence[int]) -> Iterator[Values]:
    """APGR at each size, at random and chosen; NaN where there are too few questions."""
    groups = pool.sample.groups[: pool.count]
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    held = np.isin(groups, names[: len(names) // 5])
    rows, judged = np.flatnonzero(~held), np.flatnonzero(held)
    targets = pool.sample.targets[judged]
    outcomes = Outcomes(targets[:, 0], targets[:, 1], groups[judged])
    for densities in (None, measure_densities(pool.views[rows])):
        found = dict.fromkeys(sizes, np.nan)
        for labelled in label(pool, rows, batch, seed, densities):
            if len(labelled) in found:
                chances = pool.predict(pool.train(labelled), judged)
                found[len(labelled)] = apgr(chances[:, 1] - chances[:, 0], outcomes)
            if len(labelled) >= max(sizes):
                break
        yield np.array(list(found.values()))


def render(found: Values, sizes: Sequence[int]) -> Iterator[str]:
    """A row of a Markdown table for each size, from an array of splits, ways and sizes."""
    for place, size in enumerate(sizes):
        both = found[:, :, place]
        cells = [*both.T, both[:, 1] - both[:, 0]]
        error = len(found) ** 0.5
        shown = [
            f"{c.mean():.3f} ± {c.std(ddof=1) / error:.3f} ({c.std(ddof=1):.3f})" for c in cells
        ]
        if not np.isnan(both).any():
            yield f"| {size} | " + " | ".join(shown) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--source", nargs="*", help="Of these sources only.")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--labels", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    sources = read_sources(options.records)
    wanted = zip(sources.records, sources.names, strict=True)
    pool = build_pool([r for r, name in wanted if not options.source or name in options.source])
    seeds = range(FIRST_SEED, FIRST_SEED + options.splits)
    found = [list(measure_split(pool, options.batch, seed, options.labels)) for seed in seeds]
    print("| labels | at random | chosen | chosen less random |")
    print("| ---: | ---: | ---: | ---: |")
    for row in render(np.array(found), options.labels):
        print(row)


if __name__ == "__main__":
    main()
