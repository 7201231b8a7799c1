"""Hedging: a call whose first token is late is also sent to another replica of its tier.

The first answer wins, and the other attempt ends at its engine (Dean, Barroso: "The Tail at Scale",
CACM 2013). A call counts as late once it has waited longer than most of the newest calls.

A first token that an ended attempt never sent counts with the time that the attempt had waited.
Without these times the measured quantile would fall with each hedge that wins.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from serve_app.config.hedging import HedgingConfig
from serve_app.config.runtime import RetriesConfig
from serve_app.core.errors import GatewayError
from serve_app.leases.retries import RetryBudget

logger = logging.getLogger("ray.serve")

TIMES_MAX = 512
"""The newest first tokens whose times make the quantile."""
SPARE = 10
"""The most hedges that are saved up; a tier that slows down as a whole must not be flooded."""

T = TypeVar("T")


class HedgeFate(StrEnum):
    """What became of a call that was late; a closed set, so that it can label metrics."""

    WON = "won"
    """The second attempt answered."""
    LOST = "lost"
    """The first attempt answered before the second."""
    FAILED = "failed"
    """The second attempt failed."""
    NO_PLACE = "no_place"
    """No other replica had a free place, or the tier was full."""
    NO_BUDGET = "no_budget"


class FirstTokenTimes:
    """The newest times to a first token, in order of their length."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._newest)

    def note(self, seconds: float) -> None:
        """A first token has come after so long, or would have come later."""
        if len(self._newest) == TIMES_MAX:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]
        self._newest.append(seconds)
        insort(self._sorted, seconds)

    def quantile(self, part: float) -> float:
        """The time that this part of the calls stayed below; there must be a time."""
        return self._sorted[min(int(part * len(self._sorted)), len(self._sorted) - 1)]


class Hedging:
    """The hedges of one tier, as one Router sends them."""

    def __init__(self, config: HedgingConfig, retries: RetryBudget) -> None:
        self._config = config
        self._retries = retries
        self._budget = RetryBudget(RetriesConfig(ratio_max=config.ratio_max, spare=SPARE))
        self._times = FirstTokenTimes()
        self.fates: Counter[HedgeFate] = Counter()
        """Counts since they were last taken."""

    def configure(self, config: HedgingConfig) -> None:
        """Take new settings; measured times stay."""
        self._config = config
        self._budget.configure(RetriesConfig(ratio_max=config.ratio_max, spare=SPARE))

    def note_call(self) -> None:
        """A call is sent for the first time."""
        self._budget.note_call()

    def note_first(self, seconds: float) -> None:
        """The first token of an attempt has come, or the attempt was ended before it came."""
        self._times.note(seconds)

    def late_after_s(self) -> float | None:
        """The wait after which a call is hedged; None while too few calls have been measured."""
        config = self._config
        if len(self._times) < config.samples_min:
            return None
        late_s = self._times.quantile(config.quantile)
        return min(max(late_s, config.wait_s_min), config.wait_s_max)

    def affordable(self) -> bool:
        """Whether a hedge is left."""
        return self._budget.left >= 1 and self._retries.left >= 1

    def spend(self) -> None:
        """A hedge is sent."""
        self._budget.spend()
        self._retries.spend()


async def race(
    first: Callable[[], Coroutine[Any, Any, T]],
    second: Callable[[], Coroutine[Any, Any, T]],
    late_after_s: float,
    *,
    wins: Callable[[T], bool],
    discard: Callable[[T], None],
) -> list[T]:
    """The results of `first`, and of `second` if the first takes long; the last one wins, if any.

    `second` begins only while the first runs. When a result wins, the other run is cancelled. If
    the other run has a result nevertheless, `discard` gets it. `wins` is asked once about each
    result, before anything is cancelled. Without a winner an exception of a run is raised.
    """
    runs = [asyncio.ensure_future(first())]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait(runs, timeout=late_after_s)
        if not runs[0].done():
            runs.append(asyncio.ensure_future(second()))
        winner = await _find_winner(runs, wins)
    finally:
        for run in runs:
            if run is not winner:
                run.cancel()
                run.add_done_callback(partial(_end, discard))
    return [winner.result()] if winner is not None else [run.result() for run in runs]


async def _find_winner(
    runs: list[asyncio.Task[T]], wins: Callable[[T], bool]
) -> asyncio.Task[T] | None:
    left = list(runs)
    while left:
        done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for run in [run for run in left if run in done]:
            left.remove(run)
            if not run.cancelled() and run.exception() is None and wins(run.result()):
                return run
    return None


def _end(discard: Callable[[T], None], run: asyncio.Task[T]) -> None:
    if run.cancelled():
        return
    error = run.exception()
    if error is None:
        discard(run.result())
    elif not isinstance(error, GatewayError):
        logger.error("an attempt failed", exc_info=error)
