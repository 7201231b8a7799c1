"""Whether new weights may take the place of old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.offline.learning.learning_errors import (
    WouldReplaceBetter,
    WouldReplaceRicher,
    WouldReplaceUnknown,
)
from serve_app.offline.learning.metrics import Outcomes, Values, apgr

SURE = 0.99
"""The share of the bootstrap's draws in which one must be better to be called better.

With less, a log that grows would often be refused by chance: it is judged again in every round.
"""

FEWER_RATIO = 0.5
"""Where the calls do not tell, new weights from fewer than this share of the old ones' calls lose.

Not from merely fewer: a log whose oldest files are deleted shrinks a little now and then.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two weights on the calls that neither was learnt from.

    `new` and `old` are their APGR, None where these calls have no gap between the models.
    `old_better` is the share of the bootstrap's draws in which the old weights are better. `known`
    is False if one of them does not say what it was learnt from, which can only flatter it.
    """

    calls: int
    new: float | None = None
    old: float | None = None
    old_better: float = 0.5
    known: bool = True


def compare_gains(
    new: Values, old: Values, outcomes: Outcomes, draws: Sequence[NDArray[np.int64]], *, known: bool
) -> Comparison:
    """Compare predicted gains of the same calls, draw by draw."""
    if not outcomes.strong.sum() > outcomes.fast.sum():
        return Comparison(len(new), known=known)
    leads = [_lead(new[rows], old[rows], outcomes.choose(rows)) for rows in draws]
    found = np.array([lead for lead in leads if lead is not None])
    better = float((found < 0).mean() + (found == 0).mean() / 2) if len(found) else 0.5
    return Comparison(len(new), apgr(new, outcomes), apgr(old, outcomes), better, known)


def check_succession(
    path: Path, comparison: Comparison, new_records: int, old_records: int
) -> None:
    """Check that the weights in `path` may be replaced: they are not shown to be better.

    Raises:
        WouldReplaceBetter: they are better.
        WouldReplaceUnknown: they look better on calls that they may know.
        WouldReplaceRicher: neither is shown to be better, and they come from many more calls.
    """
    c = comparison
    if c.new is not None and c.old is not None and c.old_better >= SURE:
        error = WouldReplaceBetter if c.known else WouldReplaceUnknown
        raise error(path, c.calls, c.old, c.new)
    if c.old_better > 1 - SURE and new_records < FEWER_RATIO * old_records:
        raise WouldReplaceRicher(path, c.calls, old_records, new_records)


def _lead(new: Values, old: Values, outcomes: Outcomes) -> float | None:
    """None where a draw has no gap between the models."""
    try:
        return apgr(new, outcomes) - apgr(old, outcomes)
    except ValueError:
        return None
