"""The ranks of calls in an engine that schedules by priority: a lower number comes first."""

from __future__ import annotations

from serve_app.core.caller import Caller, Priority

CLIENT_RANK = 0
BATCH_RANK = 100
STEPS = 4
"""In so many steps the rank of a line becomes that of a client's call."""


def find_rank(caller: Caller) -> int:
    """The rank of a caller's call."""
    if caller.turn is not None:
        return caller.turn.rank
    return BATCH_RANK if caller.rights.priority is Priority.BATCH else CLIENT_RANK


def choose_rank(left_ratio: float, rising_ratio: float) -> int:
    """The rank of a line whose batch has so much of its time left, as a part of all its time.

    The rank rises within the last `rising_ratio` of the time, in equal steps; the last step is the
    rank of clients' calls, and no line comes before these.
    """
    if not rising_ratio or left_ratio >= rising_ratio:
        return BATCH_RANK
    left = max(0.0, left_ratio) / rising_ratio
    return BATCH_RANK * int(left * STEPS) // STEPS
