"""The signals as numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from serve_app.offline.probing.signals import SIGNALS, entropy, stack_signal
from tests.offline.probing.fakes import row


def test_entropy_counts_the_rest() -> None:
    """Tokens beyond the listed ones are one token more; a certain token has none."""
    assert entropy([0.0]) == 0
    assert entropy([math.log(0.5), math.log(0.5)]) == pytest.approx(math.log(2))
    assert entropy([math.log(0.5)]) == pytest.approx(math.log(2))


def test_every_signal_has_finite_columns() -> None:
    """Also of a first token that is certain, whose logarithms would have no bounds."""
    certain = row(sure=1.0)
    for signal in SIGNALS.values():
        columns = stack_signal(signal, [certain, row(sure=0.0)])
        assert columns.shape[0] == 2
        assert all(math.isfinite(value) for value in columns.ravel())


def test_a_draft_is_seen_up_to_its_checkpoint() -> None:
    """A later token does not count."""
    late = replace(row(), logprobs=[-0.1, -0.1, -0.1, -0.1, -9.0])
    four = stack_signal(SIGNALS["draft of 4 tokens"], [late])
    eight = stack_signal(SIGNALS["draft of 8 tokens"], [late])
    assert four[0, 1] == pytest.approx(math.exp(-0.1))
    assert eight[0, 1] == pytest.approx(math.exp(-9.0))
