"""Holds the share of strong calls while the traffic changes; counts calls and needs no clock.

Two things move the threshold. The quantile of the newest scores follows the traffic. The remaining
error, the number of strong calls that are owed or were too many, shifts the quantile's level:

    level     = target + GAIN * owed
    threshold = the score that this share of the window reaches
    owed     += target - (1 if the call was strong else 0)

No call is strong at level 0, and every call is strong at level 1. So `owed` stays within a range of
1 / GAIN calls, and any n calls in a row miss the target by at most about 1 / (GAIN * n), whatever
their scores. This holds while the bounds leave the threshold free.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass

from serve_app.config.runtime import RoutingConfig
from serve_app.core.call import Decision, Reason
from serve_app.routing.drift import ScoreWindow

GAIN = 0.03
"""Change of the level per strong call owed. A higher value holds the share tighter, and sends more
calls the other way only to correct the count: with random traffic the level strays by about
sqrt(GAIN * target * (1 - target) / 2)."""

_BY_OTHER_RULES = frozenset({Reason.PROMPT_TOO_LONG, Reason.NEVER_BELOW, Reason.NEVER_ABOVE})
"""The reasons of decisions that ignore the score but count for the share."""

_ABOVE_ALL = math.nextafter(1.0, 2.0)


@dataclass(frozen=True, slots=True)
class ControlState:
    """The state of the controller at this moment, for people and metrics.

    `share` is the share of strong calls among the newest calls that the score decided. `drift` is
    the population stability index of the newest scores. Both are None before there are enough
    scores.
    """

    target: float
    threshold: float
    share: float | None
    drift: float | None
    drifting: bool
    calls: int


class ShareController:
    """A threshold on scores that a given share of the calls reaches.

    `strong_score_min` holds until the window has enough scores.
    """

    def __init__(self, config: RoutingConfig, window: ScoreWindow | None = None) -> None:
        """`config.strong_ratio_target` is set; `window` may hold scores of earlier calls."""
        assert config.strong_ratio_target is not None
        self._target = config.strong_ratio_target
        self._low, high = config.strong_score_min_bounds
        self._high = high if high < 1 else _ABOVE_ALL
        self._owed = 0.0
        self._size = config.strong_ratio_window
        self._window = ScoreWindow(self._size) if window is None else window
        self._outcomes: deque[bool] = deque()
        self._strong = 0
        self._raw = config.strong_score_min
        self.threshold = self._clamp(self._raw)
        """The score from which the next call is strong."""
        self._move()

    def note(self, score: float) -> None:
        """Count a call that the score decided, immediately after its decision."""
        strong = score >= self.threshold
        self._count(strong)
        self._window.note(score)
        self._move()

    def note_unscored(self, *, strong: bool) -> None:
        """Count a call that another rule than the score decided, and that counts for the share."""
        self._count(strong)
        self._move()

    @property
    def state(self) -> ControlState:
        """The state for the metrics and for /v1/route; costs a few microseconds."""
        return ControlState(
            target=self._target,
            threshold=self.threshold,
            share=self._strong / len(self._outcomes) if self._outcomes else None,
            drift=self._window.drift,
            drifting=self._window.drifting,
            calls=len(self._outcomes),
        )

    @property
    def _knows_enough(self) -> bool:
        """Whether the window gives a quantile; shares of 0 and 1 need no quantile."""
        return self._window.is_telling or self._target in (0.0, 1.0)

    def _count(self, strong: bool) -> None:
        self._outcomes.append(strong)
        self._strong += strong
        if len(self._outcomes) > self._size:
            self._strong -= self._outcomes.popleft()
        if not self._knows_enough:
            return
        # A bound that holds the threshold causes no debt.
        if (self._raw > self._high and strong) or (self._raw < self._low and not strong):
            return
        owed = self._owed + self._target - strong
        # The most that levels of 0 and 1 leave. More comes from calls that no score decides.
        self._owed = min(max(owed, -1 - self._target / GAIN), 1 + (1 - self._target) / GAIN)

    def _move(self) -> None:
        if self._knows_enough:
            self._raw = self._quantile(self._target + GAIN * self._owed)
            self.threshold = self._clamp(self._raw)

    def _quantile(self, level: float) -> float:
        """The score that this share of the window reaches.

        Where many calls have exactly that score, the result is that score or the next number above
        it, whichever gives the closer share.
        """
        scores = self._window.sorted
        wanted = level * len(scores)
        if level >= 1:
            return 0.0
        if wanted < 1:
            return _ABOVE_ALL
        score = scores[len(scores) - int(wanted)]
        reach = len(scores) - bisect_left(scores, score)
        exceed = len(scores) - bisect_right(scores, score)
        return score if reach - wanted <= wanted - exceed else math.nextafter(score, 2.0)

    def _clamp(self, threshold: float) -> float:
        return min(max(threshold, self._low), self._high)


class ThresholdControl:
    """The threshold in force: the fixed one, or a controller's if the config sets a share."""

    def __init__(self) -> None:
        self._config: RoutingConfig | None = None
        self._controller: ShareController | None = None
        self._window = ScoreWindow(1)

    def threshold(self, config: RoutingConfig) -> float:
        """The score from which a call is strong."""
        self._follow(config)
        return config.strong_score_min if self._controller is None else self._controller.threshold

    def note(self, decision: Decision, config: RoutingConfig, strongest: str) -> None:
        """Note the decision of a real call, unless the call named its tier.

        A shift for load or away from a tier that is down does not count against the share, because
        the controller would otherwise undo the shift. The threshold decides neither a draft nor a
        call that an objective has chosen for, but the scores of the latter show a drift.
        """
        self._follow(config)
        if decision.reason is Reason.DRAFT:
            return
        if decision.prospects:
            if decision.score is not None:
                self._window.note(decision.score)
            return
        if decision.reason in _BY_OTHER_RULES:
            if self._controller is not None:
                self._controller.note_unscored(strong=decision.tier == strongest)
        elif decision.score is not None:
            compared = decision.score if decision.weighed is None else decision.weighed
            (self._controller or self._window).note(compared)

    def state(self, config: RoutingConfig) -> ControlState | None:
        """The state of the controller, None where the threshold is fixed."""
        self._follow(config)
        return None if self._controller is None else self._controller.state

    def scores(self, config: RoutingConfig) -> ScoreWindow:
        """The newest scores, with a controller or with a fixed threshold."""
        self._follow(config)
        return self._window

    def _follow(self, config: RoutingConfig) -> None:
        """Take a new config; the scores seen so far stay with every change."""
        if config is self._config:
            return
        before, self._config = self._config, config
        if self._window.size != config.strong_ratio_window:
            self._window = ScoreWindow(config.strong_ratio_window, self._window.newest)
        if before is None or _scorer_keys(config) != _scorer_keys(before):
            self._window.forget_usual()
        if before is None or _control_keys(config) != _control_keys(before):
            held = config.strong_ratio_target is not None and config.objective is None
            self._controller = ShareController(config, self._window) if held else None


def _scorer_keys(config: RoutingConfig) -> tuple[object, ...]:
    return config.scorer, config.weights


def _control_keys(config: RoutingConfig) -> tuple[object, ...]:
    return (
        config.strong_ratio_target,
        config.strong_ratio_window,
        config.strong_score_min_bounds,
        config.strong_score_min,
        config.objective,
    )
