"""Metrics of batches and of the events that tell of them.

Every Router reads the same ledger, so a dashboard takes the maximum over Routers, not the sum.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from ray.serve.metrics import Counter, Gauge

BATCHES_MAX = 20
"""The oldest batches that have a label of their own."""
OTHERS = "(others)"
STATES = ("waiting", "claimed", "completed", "failed")


class Progress(Protocol):
    """The lines of a batch that has not ended; see `batches/batch.py`."""

    @property
    def label(self) -> str: ...
    @property
    def created_at(self) -> float: ...
    @property
    def waits(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    @property
    def claimed(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def failed(self) -> int: ...


class BatchMetrics:
    """Reads about once a second what the ledger has said last."""

    def __init__(
        self,
        read: Callable[[], Sequence[Progress] | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`read` returns the batches that have not ended, the oldest first; None: off."""
        self._read = read
        self._clock = clock
        self._lines = Gauge(
            "serve_app_batch_lines",
            "Lines of batches that have not ended.",
            ("batch", "state"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )
        self._oldest = Gauge(
            "serve_app_batch_oldest_wait_seconds",
            "Age of the oldest batch of which a line waits for a worker, 0 without one.",
        )

    def flush(self) -> None:
        """Hand the numbers to Ray; a batch that has ended vanishes by itself."""
        batches = self._read()
        if batches is None:
            return
        for (batch, state), lines in count_lines(batches).items():
            self._lines.set(lines, {"batch": batch, "state": state})
        now = self._clock()
        self._oldest.set(max((now - one.created_at for one in batches if one.waits), default=0.0))


def count_lines(batches: Sequence[Progress]) -> Mapping[tuple[str, str], int]:
    """Lines by the label of their batch and by state."""
    lines = {(OTHERS, state): 0 for state in STATES}
    named = set(list(dict.fromkeys(batch.label for batch in batches))[:BATCHES_MAX])
    for batch in batches:
        label = batch.label if batch.label in named else OTHERS
        for state in STATES:
            lines[label, state] = lines.get((label, state), 0) + getattr(batch, state)
    return lines


class EventBacklog(Protocol):
    """The events that a receiver has not got; see `batches/notices.py`."""

    @property
    def count(self) -> int: ...
    @property
    def oldest_at(self) -> float: ...


Fate = TypeVar("Fate", bound=StrEnum)
Held = TypeVar("Held", bound=EventBacklog)


class WebhookMetrics:
    """Reads the deliveries about once a second; receivers have the names of the config."""

    def __init__(
        self,
        take: Callable[[], Tally[tuple[str, Fate]]],
        read: Callable[[], Mapping[str, Held]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`take` returns the attempts that have ended since, `read` what waits, by receiver."""
        self._take, self._read, self._clock = take, read, clock
        self._attempts = Counter(
            "serve_app_webhook_attempts",
            "Attempts to deliver an event, by receiver and end.",
            ("webhook", "fate"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )
        self._waiting = Gauge(
            "serve_app_webhook_events_waiting",
            "Events that a receiver has not confirmed.",
            ("webhook",),
        )
        self._oldest = Gauge(
            "serve_app_webhook_oldest_wait_seconds",
            "Age of the oldest event that a receiver has not confirmed, 0 without one.",
            ("webhook",),
        )

    def flush(self) -> None:
        """Hand the growth and the numbers to Ray."""
        for (hook, fate), attempts in self._take().items():
            self._attempts.inc(attempts, {"webhook": hook, "fate": fate.value})
        now = self._clock()
        for hook, waiting in self._read().items():
            self._waiting.set(waiting.count, {"webhook": hook})
            age_s = now - waiting.oldest_at if waiting.count else 0.0
            self._oldest.set(age_s, {"webhook": hook})
