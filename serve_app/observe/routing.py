"""Metrics of routing: the controller of the threshold, the scores, the load of the tiers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol, TypeVar

from ray.serve.metrics import Counter, Gauge

from serve_app.core.load import BreakerState, TierLoad

logger = logging.getLogger("ray.serve")


Fate = TypeVar("Fate", bound=StrEnum)

NEWS = {
    BreakerState.OPEN: "is down",
    BreakerState.HALF_OPEN: "is tried again",
    BreakerState.CLOSED: "is back",
}


class HeldShare(Protocol):
    """The state of a controller; see `routing/control.py`."""

    @property
    def target(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def share(self) -> float | None: ...


class Scores(Protocol):
    """Whether the newest scores have their usual distribution; see `routing/drift.py`."""

    @property
    def drift(self) -> float | None: ...
    @property
    def drifting(self) -> bool: ...


class ControlMetrics:
    """Reads the state about once a second; without a state there is no metric."""

    def __init__(self, read: Callable[[], HeldShare | None]) -> None:
        self._read = read
        self._threshold = Gauge(
            "serve_app_routing_threshold",
            "The lowest score with which a call goes to the strongest tier.",
        )
        self._share = Gauge(
            "serve_app_routing_strong_ratio",
            "Share of strong calls among the newest that the score decided.",
        )
        self._target = Gauge(
            "serve_app_routing_strong_ratio_target", "The share that the config asks for."
        )

    def flush(self) -> None:
        """Hand the state to Ray."""
        state = self._read()
        if state is None:
            return
        self._threshold.set(state.threshold)
        self._target.set(state.target)
        if state.share is not None:
            self._share.set(state.share)


class HeldWeights(Protocol):
    """What costs are worth, in P(right); see `routing/worth.py`."""

    @property
    def money(self) -> float: ...
    @property
    def time(self) -> float: ...
    @property
    def strong(self) -> float: ...


class CostWeightMetrics:
    """Reads the weights of the objective about once a second; without one there is no metric."""

    def __init__(self, read: Callable[[], HeldWeights | None]) -> None:
        self._read = read
        self._weight = Gauge(
            "serve_app_routing_weight",
            "P(right) that the objective gives up for a unit of money, a second or a strong call.",
            ("of",),
        )

    def flush(self) -> None:
        """Hand the weights to Ray."""
        weights = self._read()
        if weights is None:
            return
        for name in ("money", "time", "strong"):
            self._weight.set(getattr(weights, name), {"of": name})


class DriftMetrics:
    """Reads the scores about once a second, and logs a change.

    Drift begins and ends at most once for each window of scores, so the log stays short.
    """

    def __init__(self, read: Callable[[], Scores]) -> None:
        self._read = read
        self._were_drifting = False
        self._drift = Gauge(
            "serve_app_routing_drift",
            "Population stability index of the newest scores against the usual scores.",
        )

    def flush(self) -> None:
        """Hand the index to Ray, once there are enough scores."""
        scores = self._read()
        drift, drifting = scores.drift, scores.drifting
        if drift is not None:
            self._drift.set(drift)
        if drifting != self._were_drifting:
            self._were_drifting = drifting
            news = "drift" if drifting else "are steady again"
            logger.warning("the scores of the calls %s: drift %.2f", news, drift or 0.0)


class LoadMetrics:
    """Reads the load of the tiers about once a second, and logs each change of a breaker."""

    def __init__(self, read: Callable[[], Mapping[str, TierLoad]]) -> None:
        self._read = read
        self._states: dict[str, BreakerState] = {}
        self._avoided_before: dict[str, int] = {}
        self._breaker = Gauge(
            "serve_app_tier_breaker",
            "1 for the state of a tier's circuit breaker, 0 for its other states.",
            ("tier", "state"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )
        self._avoided = Gauge(
            "serve_app_replicas_avoided",
            "Replicas of a tier whose own circuit breakers are not closed.",
            ("tier",),
        )
        self._down = Gauge(
            "serve_app_tier_down",
            "1 until a tier whose replicas cannot be reached or whose engines fail answers again.",
            ("tier",),
        )
        self._oldest = Gauge(
            "serve_app_oldest_wait_seconds",
            "Age of the oldest call that waits for a place on a replica; 0 if none waits.",
            ("tier",),
        )
        self._first_token = Gauge(
            "serve_app_first_token_wait_seconds",
            "Estimated wait for the first token of a call that arrives now; 0 if unknown.",
            ("tier",),
        )
        self._kv_free = Gauge(
            "serve_app_kv_free_ratio",
            "Free part of a tier's KV caches, the mean of its replicas; none if unknown.",
            ("tier",),
        )

    def flush(self) -> None:
        """Hand the load to Ray."""
        for name, load in self._read().items():
            tags = {"tier": name}
            # A breaker that is tried again every few seconds must not end an alert.
            self._down.set(int(load.down or load.breaker is not BreakerState.CLOSED), tags)
            self._oldest.set(load.oldest_wait_s, tags)
            self._first_token.set(load.first_token_s or 0.0, tags)
            # Ray drops a NaN series at once, but a series that is not set only two exports later.
            self._kv_free.set(math.nan if load.kv_free_ratio is None else load.kv_free_ratio, tags)
            self._flush_breakers(name, load)

    def _flush_breakers(self, name: str, load: TierLoad) -> None:
        for state in BreakerState:
            self._breaker.set(int(state is load.breaker), {"tier": name, "state": state.value})
        self._avoided.set(load.avoided, {"tier": name})
        if load.breaker is not self._states.get(name, BreakerState.CLOSED):
            logger.warning("tier %s %s", name, NEWS[load.breaker])
        if load.avoided != self._avoided_before.get(name, 0):
            logger.warning("tier %s: replicas with an open breaker: %d", name, load.avoided)
        self._states[name], self._avoided_before[name] = load.breaker, load.avoided


class RetryMetrics:
    """Reads the retry budget about once a second, and logs when it is spent and filled again."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._was_spent = False
        self._left = Gauge(
            "serve_app_retries_left", "Calls that a Router may send to a second replica at once."
        )

    def flush(self) -> None:
        """Hand the budget to Ray."""
        left = self._read()
        self._left.set(left)
        spent = left < 1
        if spent != self._was_spent:
            self._was_spent = spent
            logger.warning("the retry budget %s", "is spent" if spent else "has retries again")


class HedgeMetrics:
    """Reads about once a second what became of the calls whose first token was late."""

    def __init__(self, take: Callable[[], Mapping[str, Mapping[Fate, int]]]) -> None:
        """`take` returns the counts of each tier since it was last called."""
        self._take = take
        self._hedges = Counter(
            "serve_app_hedges",
            "Calls whose first token was late, by the fate of their second attempt.",
            ("tier", "fate"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )

    def flush(self) -> None:
        """Hand the counts to Ray."""
        for tier, fates in self._take().items():
            for fate, count in fates.items():
                self._hedges.inc(count, {"tier": tier, "fate": fate.value})
