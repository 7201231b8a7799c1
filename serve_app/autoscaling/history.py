"""A policy's memory of a tier: the number of calls that came, and the work of a call."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter

from serve_app.autoscaling.demand import Capacity, EngineSignals, TierSignals

SMOOTH_S = 20.0
"""The period over which waits and calls at a time are averaged: shorter changes are chance."""
RATE_S = (60.0, 30.0, 15.0, 8.0)
"""The periods over which arrivals are counted. A shorter period counts only if it saw more arrivals
than chance allows."""
SURGE_SIGMA = 4.0
"""The number of standard deviations that counts as more than chance. Arrivals are taken as Poisson:
of n expected arrivals, the square root of n is chance."""
UNCOUNTED_MIN = 1.25
"""The ratio of seen calls to calls meant for the tier above which the excess is real, besides
chance: the two counts are reported at different moments."""
TREND_BINS = 8
TREND_EXPLAINED_MIN = 0.9
TREND_RISE_MIN = 0.15
"""The part of the mean by which a trend must rise within the seen period; less is chance."""


@dataclass(frozen=True, slots=True)
class Point:
    """One look at a tier; the counters continue when replicas come and go.

    `meant` are the calls that were meant for the tier, as the Routers count them. `arrived` are the
    calls that have ended and the calls that are here. `arrived` leaves out calls that are turned
    away, and includes calls that no Router has counted. While another tier's calls spill to this
    tier, `arrived` grows like `meant`.
    """

    at_s: float
    calls: float
    meant: float
    arrived: float
    finished: float
    prompt_tokens: float
    output_tokens: float
    first_tokens: float
    first_token_waits_s: float


@dataclass(slots=True)
class History:
    """The looks of the last `keep_s` seconds."""

    keep_s: float
    points: deque[Point] = field(default_factory=deque)
    engines: Mapping[str, EngineSignals] = field(default_factory=dict)
    wanted: Mapping[str, float] = field(default_factory=dict)

    def note(self, signals: TierSignals, *, spilled: bool = False) -> None:
        """Take another look, with `spilled` set while other tiers' calls come to this tier too.

        A look at the same or an earlier time is ignored.
        """
        if self.points and signals.now_s <= self.points[-1].at_s:
            return
        told, tells = self.engines, signals.engines
        last = self.points[-1] if self.points else None
        finished = _added(told, tells, "finished")
        came = finished + signals.calls - (last.calls if last else 0.0)
        meant = sum(
            max(0.0, count - self.wanted[key])
            for key, count in signals.wanted.items()
            if key in self.wanted
        )
        if spilled and signals.wanted:
            came = meant
        last = last or Point(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        point = Point(
            at_s=signals.now_s,
            calls=signals.calls,
            meant=last.meant + meant,
            arrived=last.arrived + came,
            finished=last.finished + finished,
            prompt_tokens=last.prompt_tokens + _added(told, tells, "prompt_tokens"),
            output_tokens=last.output_tokens + _added(told, tells, "output_tokens"),
            first_tokens=last.first_tokens + _added(told, tells, "first_tokens"),
            first_token_waits_s=last.first_token_waits_s
            + _added(told, tells, "first_token_waits_s"),
        )
        self.engines, self.wanted = dict(tells), dict(signals.wanted)
        self.points.append(point)
        while self.points[0].at_s < signals.now_s - self.keep_s:
            self.points.popleft()

    def since(self, window_s: float) -> list[Point]:
        """The looks of the last `window_s` seconds, the newest at the end."""
        begin_s = self.points[-1].at_s - window_s if self.points else 0.0
        found: list[Point] = []
        for point in reversed(self.points):
            if point.at_s < begin_s:
                break
            found.append(point)
        return found[::-1]

    @property
    def calls(self) -> float:
        """The number of calls at a time, averaged over the last seconds."""
        points = self.since(SMOOTH_S)
        return sum(point.calls for point in points) / len(points) if points else 0.0

    @property
    def first_token_s(self) -> float | None:
        """The mean recent wait for a first token within the engines, None without first tokens."""
        points = self.since(SMOOTH_S)
        told = points[-1].first_tokens - points[0].first_tokens if points else 0.0
        if told <= 0:
            return None
        return (points[-1].first_token_waits_s - points[0].first_token_waits_s) / told

    def work_s(self, capacity: Capacity) -> float | None:
        """The mean seconds of one replica that a call takes, None where that is unknown."""
        if not self.points:
            return None
        begin, end = self.points[0], self.points[-1]
        ended = end.finished - begin.finished
        if ended < 1:
            return None
        return capacity.work_s(
            (end.prompt_tokens - begin.prompt_tokens) / ended,
            (end.output_tokens - begin.output_tokens) / ended,
        )

    def _series(self) -> Callable[[Point], float]:
        """The counter of arrivals: the calls that were meant for the tier, unless the engines have
        seen clearly more calls within the last minute."""
        if not self.wanted:
            return attrgetter("arrived")
        points = self.since(RATE_S[0])
        meant = points[-1].meant - points[0].meant
        seen = points[-1].arrived - points[0].arrived
        uncounted = seen > UNCOUNTED_MIN * meant + SURGE_SIGMA * math.sqrt(meant)
        return attrgetter("arrived" if uncounted else "meant")

    def count_arrivals(self, window_s_min: float = 0.0) -> float:
        """Calls that arrive in a second: over a minute, or over a shorter period with clearly more.

        `window_s_min` excludes shorter periods while replicas are being added: new replicas take so
        many calls at once that reports of different age do not add up.
        """
        per_s, read = 0.0, self._series()
        for window_s in RATE_S:
            points = self.since(window_s)
            if len(points) < 3 or window_s < window_s_min:
                break
            span_s = points[-1].at_s - points[0].at_s
            came = max(0.0, read(points[-1]) - read(points[0]))
            expected = per_s * span_s
            if window_s == RATE_S[0] or came > expected + SURGE_SIGMA * math.sqrt(expected + 1):
                per_s = came / span_s
        return per_s

    def project_trend(self, ahead_s: float) -> float:
        """Calls a second `ahead_s` from now if they continue to grow; 0 if they do not grow.

        A straight line must explain most of the looks, because neither a step nor chance is a
        trend.
        """
        points = self.points
        if len(points) < 2 * TREND_BINS or points[-1].at_s - points[0].at_s < 0.9 * self.keep_s:
            return 0.0
        step = (len(points) - 1) // TREND_BINS
        marks = [points[len(points) - 1 - step * back] for back in range(TREND_BINS, -1, -1)]
        read = self._series()
        rates = [
            ((a.at_s + b.at_s) / 2, (read(b) - read(a)) / (b.at_s - a.at_s))
            for a, b in pairwise(marks)
        ]
        slope, at_end, explained = _fit_line(rates, points[-1].at_s)
        mean_per_s = sum(per_s for _, per_s in rates) / len(rates)
        rise = slope * (points[-1].at_s - points[0].at_s)
        if explained < TREND_EXPLAINED_MIN or rise < TREND_RISE_MIN * mean_per_s:
            return 0.0
        return at_end + slope * ahead_s


def _added(
    told: Mapping[str, EngineSignals], tells: Mapping[str, EngineSignals], name: str
) -> float:
    """The counts of the known replicas since the last look."""
    added = 0.0
    for key, engine in tells.items():
        if key in told:
            added += max(0.0, getattr(engine, name) - getattr(told[key], name))
    return added


def _fit_line(points: list[tuple[float, float]], end: float) -> tuple[float, float, float]:
    """Slope, value at `end`, and the part of the variance that the line explains."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    variance = sum((y - mean_y) ** 2 for _, y in points)
    if spread == 0 or variance == 0:
        return 0.0, mean_y, 0.0
    joint = sum((x - mean_x) * (y - mean_y) for x, y in points)
    slope = joint / spread
    return slope, mean_y + slope * (end - mean_x), joint * joint / (spread * variance)
