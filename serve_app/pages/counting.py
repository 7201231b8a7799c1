"""Counts the calls of one Router for the dashboard; costs microseconds a call and a bounded memory."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from serve_app.core.call import Outcome, Record
from serve_app.pages.numbers import (
    FIRST_TOKEN_BOUNDS_S,
    SLOW_CALLS,
    STEP_S,
    STEPS,
    SlowCall,
    Step,
    Totals,
)

Key = TypeVar("Key")
FAILURES = frozenset({Outcome.SERVER_ERROR, Outcome.BROKEN_STREAM})
NO_TIER = "none"
"""The tier of calls that failed before a tier was chosen."""


class CallCounts:
    """The calls of the last minutes in steps, and the counts since the start."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self.started_at = clock()
        self.totals = Totals()

    def add(self, record: Record) -> None:
        """Count one ended call; its cost is known."""
        step = self._current()
        tier = NO_TIER if record.decision is None else record.decision.tier
        failed = record.outcome in FAILURES
        cost, saved = record.cost or 0, 0
        if record.cost is not None and record.strong_cost is not None:
            saved = record.strong_cost - record.cost
        _bump(step.calls, tier)
        step.failed += failed
        step.cost += cost
        step.saved += saved
        _count_decision(step, record)
        _keep_slowest(step, record)
        if record.code is not None:
            _bump(step.errors, (tier, record.code))
        if record.cache is None or not record.cache.free:
            _count_tokens(step, record, tier)
        old = self.totals
        self.totals = Totals(old.calls + 1, old.failed + failed, old.cost + cost, old.saved + saved)

    def steps(self) -> Sequence[Step]:
        """The steps with calls of the last minutes, oldest first."""
        oldest = self._number() - STEPS + 1
        return [step for step in self._steps if step.number >= oldest]

    def _number(self) -> int:
        return int(self._clock()) // STEP_S

    def _current(self) -> Step:
        number = self._number()
        # A clock that is set back must not leave two steps of one number.
        if not self._steps or self._steps[-1].number < number:
            self._steps.append(Step(number))
        return self._steps[-1]


def _count_decision(step: Step, record: Record) -> None:
    if record.decision is not None:
        _bump(step.decisions, (record.decision.tier, record.decision.reason.value))


def _count_tokens(step: Step, record: Record, tier: str) -> None:
    """Count what the tier has generated; a refusal has no first token."""
    _bump(step.output_tokens, tier, record.usage.completion_tokens or 0)
    if not record.stream or record.first_byte_s is None or record.status >= 400:
        return
    bins = step.first_tokens.setdefault(tier, [0] * (len(FIRST_TOKEN_BOUNDS_S) + 1))
    bins[bisect_left(FIRST_TOKEN_BOUNDS_S, record.first_byte_s)] += 1


def _keep_slowest(step: Step, record: Record) -> None:
    slowest = step.slowest
    if len(slowest) == SLOW_CALLS and record.total_s <= slowest[-1].total_s:
        return
    decision = record.decision
    slowest.append(
        SlowCall(
            record.request_id,
            record.arrived_at,
            None if decision is None else decision.tier,
            None if decision is None else decision.reason.value,
            record.outcome.value,
            record.first_byte_s,
            record.total_s,
            record.usage.completion_tokens,
        )
    )
    slowest.sort(key=lambda call: -call.total_s)
    del slowest[SLOW_CALLS:]


def _bump(counts: dict[Key, int], key: Key, by: int = 1) -> None:
    counts[key] = counts.get(key, 0) + by
