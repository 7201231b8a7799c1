"""A cascade with a shorter checkpoint, on questions that chose neither map nor threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from serve_app.config.cascade import ConfidenceConfig
from serve_app.offline.learning.confidence import (
    Drafts,
    ThresholdReport,
    choose_threshold,
    fit_confidence,
    judge_threshold,
    stack_features,
)
from serve_app.offline.learning.metrics import Values
from serve_app.offline.learning.options import Options
from serve_app.offline.probing.looks import Asked
from serve_app.offline.probing.signals import CHECKPOINTS
from serve_app.routing.confidence import DraftFeatures, draft_features, p_right


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What drafts of so many tokens do; `discarded` are the tokens of a discarded draft, in the
    mean."""

    tokens: int
    report: ThresholdReport
    discarded: float


def judge_checkpoints(fitted: Asked, judged: Asked, options: Options) -> Iterator[Checkpoint]:
    """For each checkpoint: map and threshold from the fitted questions, as `learn` chooses them."""
    for tokens in CHECKPOINTS:
        drafts, tested = _stack(fitted, tokens), _stack(judged, tokens)
        confidence = fit_confidence(drafts)
        chosen = choose_threshold(_weigh(drafts, confidence), drafts, options.quality_min)
        chances = _weigh(tested, confidence)
        lengths = np.array([min(len(row.logprobs), tokens) for row in judged.rows])
        escalated = lengths[chances < chosen.confidence_min]
        yield Checkpoint(
            tokens,
            judge_threshold(chances, tested, chosen.confidence_min),
            float(escalated.sum() / max(len(escalated), 1)),
        )


def _stack(asked: Asked, tokens: int) -> Drafts:
    outcomes = asked.outcomes()
    features = [draft_features(row.logprobs[:tokens]) for row in asked.rows]
    return Drafts(stack_features(features), outcomes.fast, outcomes.strong, outcomes.groups)


def _weigh(drafts: Drafts, confidence: ConfidenceConfig) -> Values:
    features = (DraftFeatures(*row) for row in drafts.features.tolist())
    return np.array([p_right(each, confidence) for each in features])
