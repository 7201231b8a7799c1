"""Calls over time: Poisson arrivals of a changing rate, with log-normal lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rate = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""A function from seconds to a factor of the base rate."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a prompt or an answer: log-normal by median and sigma, between 1 and a maximum."""

    median: float
    sigma: float
    max: int

    def draw(self, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw this many lengths."""
        drawn = random.lognormal(math.log(self.median), self.sigma, count)
        return np.clip(np.rint(drawn), 1, self.max).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of trace: how the rate changes over `length_s`, `peak` times the base at most."""

    name: str
    length_s: float
    peak: float
    rate: Rate
    prompt: Lengths
    output: Lengths


@dataclass(frozen=True, slots=True)
class Trace:
    """The calls themselves: seconds, prompt tokens and answer tokens, in order of time."""

    name: str
    length_s: float
    arrived_s: npt.NDArray[np.float64]
    prompt: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrived_s)


def draw_trace(shape: Shape, base_per_s: float, seed: int) -> Trace:
    """One trace of a shape; the same for the same seed."""
    random = np.random.default_rng(seed)
    top_per_s = base_per_s * shape.peak
    count = random.poisson(top_per_s * shape.length_s)
    at_s = np.sort(random.uniform(0.0, shape.length_s, count))
    kept = random.uniform(0.0, shape.peak, count) < shape.rate(at_s)
    at_s = at_s[kept]
    prompt, output = shape.prompt.draw(len(at_s), random), shape.output.draw(len(at_s), random)
    return Trace(shape.name, shape.length_s, at_s, prompt, output)


DOCUMENTS = (Lengths(2000, 0.8, 16_000), Lengths(400, 0.6, 2000))
HEAVY = (Lengths(1000, 1.5, 28_000), Lengths(250, 1.2, 4000))
_MINUTE_S = 60.0


def steady_shape() -> Shape:
    """Three times the base rate throughout."""
    return Shape("steady", 60 * _MINUTE_S, 3.0, lambda at_s: np.full_like(at_s, 3.0), *DOCUMENTS)


def diurnal_shape() -> Shape:
    """Up to eight times the base and back, twice: a day in two hours, twelve times too fast."""
    length_s = 120 * _MINUTE_S

    def rate(at_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return 4.5 - 3.5 * np.cos(2 * np.pi * at_s / length_s)

    return Shape("diurnal", length_s, 8.0, rate, *DOCUMENTS)


def step_shape() -> Shape:
    """Ten times the base at once, for half an hour."""

    def rate(at_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where((at_s >= 15 * _MINUTE_S) & (at_s < 45 * _MINUTE_S), 10.0, 1.0)

    return Shape("10x step", 60 * _MINUTE_S, 10.0, rate, *DOCUMENTS)


def flash_shape() -> Shape:
    """Eight times the base for four minutes, then waning: a crowd that came for one thing."""

    def rate(at_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        since_s = at_s - 15 * _MINUTE_S
        waning = 1 + 7 * np.exp(-(since_s - 4 * _MINUTE_S) / (3 * _MINUTE_S))
        crowd = np.where(since_s < 4 * _MINUTE_S, 8.0, waning)
        return np.where(since_s < 0, 1.0, crowd)

    return Shape("flash crowd", 60 * _MINUTE_S, 8.0, rate, *DOCUMENTS)


def heavy_shape() -> Shape:
    """Three times the base, with prompts and answers of very different lengths."""
    rate: Rate = lambda at_s: np.full_like(at_s, 3.0)  # noqa: E731
    return Shape("heavy tail", 60 * _MINUTE_S, 3.0, rate, *HEAVY)


def all_shapes() -> tuple[Shape, ...]:
    """Every kind, the steady one first."""
    return (steady_shape(), diurnal_shape(), step_shape(), flash_shape(), heavy_shape())
