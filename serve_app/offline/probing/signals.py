"""The signals of a row as numbers, and the scores that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serve_app.offline.learning.metrics import Values
from serve_app.offline.probing.rows import Row
from serve_app.routing.confidence import draft_features

Signal = Callable[[Row], Sequence[float]]

CHECKPOINTS = (2, 4, 8, 16)
_LOG_MIN = -16.0
"""Below the precision of the log-probabilities, which are 32-bit floats."""


def entropy(first: Sequence[float]) -> float:
    """Of the first token in nats; what the listed tokens leave counts as one token more."""
    chances = [math.exp(logprob) for logprob in first]
    chances.append(max(1.0 - sum(chances), 0.0))
    return -sum(chance * math.log(chance) for chance in chances if chance > 0)


def _max_probability(row: Row) -> Sequence[float]:
    return [_log(1.0 - math.exp(max(row.first)))]


def _entropy(row: Row) -> Sequence[float]:
    return [_log(entropy(row.first))]


def _first_token(row: Row) -> Sequence[float]:
    second = sorted(row.first, reverse=True)[1]
    return [*_max_probability(row), *_entropy(row), max(second, _LOG_MIN)]


def _log(value: float) -> float:
    """Most first tokens are nearly certain: only their logarithms tell them apart."""
    return max(math.log(max(value, 1e-300)), _LOG_MIN)


def _prompt(row: Row) -> Sequence[float]:
    return [float(np.mean(row.prompt)), min(row.prompt), float(len(row.prompt))]


def _knows(row: Row) -> Sequence[float]:
    chance = min(max(row.knows, 1e-4), 1 - 1e-4)
    return [math.log(chance / (1 - chance))]


def _hidden(row: Row) -> Sequence[float]:
    return row.hidden


def _draft(tokens: int) -> Signal:
    def of(row: Row) -> Sequence[float]:
        features = draft_features(row.logprobs[:tokens])
        return [features.mean_probability, features.min_probability]

    return of


SIGNALS: Mapping[str, Signal] = {
    "max-prob of the first token": _max_probability,
    "entropy of the first token": _entropy,
    "first token (max-prob, entropy, second)": _first_token,
    "log-probability of the prompt": _prompt,
    "P(yes): will you be right?": _knows,
    "first token, prompt and P(yes)": lambda row: [
        *_first_token(row),
        *_prompt(row),
        *_knows(row),
    ],
    "hidden state after the prompt": _hidden,
    **{f"draft of {tokens} tokens": _draft(tokens) for tokens in CHECKPOINTS},
}
"""Each as the columns of a logistic map."""


def stack_signal(signal: Signal, rows: Sequence[Row]) -> Values:
    """A row for each question."""
    return np.array([signal(row) for row in rows], dtype=np.float64)
