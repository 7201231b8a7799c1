"""Whether what was measured for long stays where it is: pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SETTLED_SHARE = 0.5
"""The first part of a run is warm-up: caches fill, pools and tables reach their size."""
POINTS_MIN = 10
"""With fewer points in the second part, a line through them says nothing."""

Point = tuple[float, float]
"""Seconds since the start, and a value."""


@dataclass(frozen=True, slots=True)
class Line:
    """The straight line through the second part of a series, by least squares."""

    first: float
    """The line's value at the beginning of the second part."""
    last: float

    @property
    def rise(self) -> float:
        """How much the line rises within the second part."""
        return self.last - self.first

    @property
    def rise_ratio(self) -> float:
        """The same, as a share of the value at the beginning."""
        if self.first > 0:
            return self.rise / self.first
        return math.inf if self.rise > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that a value may rise within the second part: as a share, or by so much."""

    ratio_max: float
    rise_max: float = 0.0

    def holds(self, line: Line) -> bool:
        """Whether the line stays within the bound."""
        return line.rise_ratio <= self.ratio_max or line.rise <= self.rise_max


MEMORY = Bound(0.02, rise_max=float(1 << 20))
"""A page or two is much of HAProxy, whose memory is 4 MiB, and nothing of a Router."""
DESCRIPTORS = Bound(0.02, rise_max=3)
THREADS = Bound(0.02, rise_max=1)
LATENCY = Bound(0.10, rise_max=0.010)
"""Seconds: minutes of a busy machine differ by more than 2 %."""


def settled(points: Sequence[Point]) -> list[Point]:
    """The points of the second part."""
    if not points:
        return []
    begins = points[0][0] + SETTLED_SHARE * (points[-1][0] - points[0][0])
    return [point for point in points if point[0] >= begins]


def fit(points: Sequence[Point]) -> Line | None:
    """The line through the second part of a series; None if it has too few points."""
    part = settled(points)
    if len(part) < POINTS_MIN:
        return None
    times, values = [point[0] for point in part], [point[1] for point in part]
    middle, mean = sum(times) / len(part), sum(values) / len(part)
    spread = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * (value - mean) for time, value in part) / spread
    return Line(mean + slope * (times[0] - middle), mean + slope * (times[-1] - middle))
