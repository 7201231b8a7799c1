"""What the start weights are worth on sources of questions that no lesson has seen.

    PYTHONPATH=. python tools/leave_source_out.py pairs-train.jsonl --judge other.jsonl

Each `source` of the records is judged by weights that were learnt from the other sources, with and
without the length in the weights to start from; a source of `--judge` by weights that were learnt
from all records. Both fits have the recipes of `serve_app/routing/WEIGHTS.md`, before and now.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from serve_app.offline.learning.anchors import draw_anchors
from serve_app.offline.learning.fit import TrainingRows, begin_weights, fit_heads
from serve_app.offline.learning.lesson import build_sample, predict_gains
from serve_app.offline.learning.metrics import Outcomes, Values, apgr, resample
from serve_app.offline.learning.options import Options
from serve_app.offline.learning.records import LabelledCall, parse_record
from serve_app.routing.scorer import HeuristicScorer
from serve_app.routing.weights import RoutingWeights

PAIR = ("Qwen2.5-7B-Instruct", "Qwen2.5-72B-Instruct")
ANCHORS = 1200
DRAWS = 200


@dataclass(frozen=True)
class Recipe:
    """How weights are learnt; without `length` they start from the heuristic alone."""

    name: str
    strength: float
    term_freedom: float
    length: bool

    def begin(self) -> RoutingWeights:
        """The weights that learning starts from."""
        begin = begin_weights()
        terms = begin.terms.copy()
        if not self.length:
            terms[:, -1] = 0
        return replace(begin, terms=terms)


RECIPES = (Recipe("before", 2.0, 0.01, False), Recipe("with length", 1.0, 0.1, True))


@dataclass(frozen=True)
class Sources:
    """Labelled calls, and the source of each."""

    records: Sequence[LabelledCall]
    names: NDArray[np.str_]


def read_sources(path: Path) -> Sources:
    """Every line that has both scores."""
    documents = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    found = [(parse_record(line), str(line["source"])) for line in documents]
    both = [(record, name) for record, name in found if record is not None]
    return Sources([record for record, _ in both], np.array([name for _, name in both]))


def judge_sources(
    given: Sources, others: Sequence[Sources], anchors: int = ANCHORS
) -> Iterator[str]:
    """A row of a Markdown table for each source."""
    sample = build_sample(given.records, draw_anchors(anchors), Options(pair=PAIR, reserve_ratio=0))
    for name in np.unique(given.names):
        held = given.names == name
        yield _render(str(name), _choose(given, held), _fit(sample, held))
    weights = _fit(sample, np.zeros(len(given.names), dtype=bool))
    for other in others:
        for name in np.unique(other.names):
            yield _render(str(name), _choose(other, other.names == name), weights)


def _fit(sample: TrainingRows, held: NDArray[np.bool_]) -> Sequence[RoutingWeights]:
    """By each recipe, from all rows but those held out and their near-duplicates."""
    alike = np.isin(sample.groups, sample.groups[: len(held)][held])
    rows = np.flatnonzero(~alike)
    return [
        fit_heads(sample.choose(rows), recipe.begin(), recipe.strength, recipe.term_freedom)
        for recipe in RECIPES
    ]


def _choose(sources: Sources, rows: NDArray[np.bool_]) -> Sequence[LabelledCall]:
    return [record for record, chosen in zip(sources.records, rows, strict=True) if chosen]


def _render(name: str, records: Sequence[LabelledCall], weights: Sequence[RoutingWeights]) -> str:
    fast, strong = (np.array([getattr(r, k) for r in records]) for k in ("fast", "strong"))
    outcomes = Outcomes(fast, strong, np.arange(len(records)))
    heuristic = HeuristicScorer()
    scores = [
        *(predict_gains(each, records) for each in weights),
        np.array([float(len(record.text)) for record in records]),
        np.array([heuristic.score(record.prompt) for record in records]),
    ]
    cells = [_measure(values, outcomes) for values in scores]
    return f"| {name} | {len(records)} | " + " | ".join(cells) + " |"


def _measure(scores: Values, outcomes: Outcomes) -> str:
    found = []
    for rows in resample(outcomes.groups, DRAWS):
        chosen = outcomes.choose(rows)
        if chosen.strong.sum() > chosen.fast.sum():
            found.append(apgr(scores[rows], chosen))
    return f"{apgr(scores, outcomes):.3f} ± {np.std(found):.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--judge", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    names = [recipe.name for recipe in RECIPES]
    print("| source left out | n | " + " | ".join([*names, "length", "heuristic"]) + " |")
    print("|---|---|" + "---|" * (len(names) + 2))
    others = [read_sources(path) for path in options.judge]
    for row in judge_sources(read_sources(options.records), others):
        print(row, flush=True)


if __name__ == "__main__":
    main()
