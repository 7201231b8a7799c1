"""What the controller of the threshold does: gauges, and a line in the log when traffic drifts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from ray.util.metrics import Gauge

logger = logging.getLogger("ray.serve")


class ControlState(Protocol):
    """The state of a controller; see `routing/control.py`."""

    @property
    def target(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def share(self) -> float | None: ...
    @property
    def drift(self) -> float | None: ...
    @property
    def drifting(self) -> bool: ...


class ControlMetrics:
    """Reads the state about once a second; no state, no metric.

    Drift begins and ends at most once for a window of scores each, so the log stays short.
    """

    def __init__(self, read: Callable[[], ControlState | None]) -> None:
        self._read = read
        self._drifting = False
        self._threshold = Gauge(
            "serve_app_routing_threshold", "Score from which a call goes to the strongest tier now."
        )
        self._share = Gauge(
            "serve_app_routing_strong_ratio",
            "Share of strong calls among the newest that the score decided.",
        )
        self._drift = Gauge(
            "serve_app_routing_drift",
            "Population stability index of the newest scores against those that were usual.",
        )

    def flush(self) -> None:
        """Hand the state to Ray, and tell the log of a change."""
        state = self._read()
        if state is None:
            self._drifting = False
            return
        self._threshold.set(state.threshold)
        if state.share is not None:
            self._share.set(state.share)
        if state.drift is not None:
            self._drift.set(state.drift)
        if state.drifting != self._drifting:
            self._drifting = state.drifting
            self._tell(state)

    def _tell(self, state: ControlState) -> None:
        logger.warning(
            "the scores of the calls %s: drift %.2f, threshold %.3f, share %.3f of %.3f",
            "drift" if state.drifting else "are steady again",
            state.drift or 0.0,
            state.threshold,
            state.share or 0.0,
            state.target,
        )
