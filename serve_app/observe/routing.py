"""Metrics of routing: the controller of the threshold, the scores, the load of the tiers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Protocol

from ray.serve.metrics import Gauge

from serve_app.core.load import TierLoad

logger = logging.getLogger("ray.serve")


class HeldShare(Protocol):
    """The state of a controller; see `routing/control.py`."""

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

    def flush(self) -> None:
        """Hand the state to Ray."""
        state = self._read()
        if state is None:
            return
        self._threshold.set(state.threshold)
        if state.share is not None:
            self._share.set(state.share)


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
    """Reads the load of the tiers about once a second, and logs which tiers go down and come up."""

    def __init__(self, read: Callable[[], Mapping[str, TierLoad]]) -> None:
        self._read = read
        self._were_down: set[str] = set()
        self._down = Gauge(
            "serve_app_tier_down",
            "1 while no replica of a tier can be reached, so that other tiers get its calls.",
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
            self._down.set(int(load.down), tags)
            self._first_token.set(load.first_token_s or 0.0, tags)
            # Ray drops a NaN series at once, but a series that is not set only two exports later.
            self._kv_free.set(math.nan if load.kv_free_ratio is None else load.kv_free_ratio, tags)
            if load.down != (name in self._were_down):
                self._were_down ^= {name}
                logger.warning("tier %s %s", name, "is down" if load.down else "is back")
