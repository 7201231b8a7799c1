"""From raw outcomes to the numbers of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.offline.bench.bench_errors import NothingMeasured
from serve_app.offline.bench.clocks import Part, Spent
from serve_app.offline.bench.phase import Outcome, Phase


@dataclass(frozen=True, slots=True)
class StageTimes:
    """How long one stage took in the calls of a phase.

    `slowest_ms` is its mean in the slowest hundredth of the calls, `counts` the calls by the
    bounds of `stages.BOUNDS_MS`.
    """

    p50_ms: float
    p99_ms: float
    mean_ms: float
    slowest_ms: float
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server under one phase; only streams have a time to first token."""

    target: str
    phase: str
    requests: int
    requests_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    total_p50_ms: float
    total_p99_ms: float
    cpu_ms: Mapping[Part, float]
    elsewhere_ratio: float
    round: int = 1
    stages: Mapping[str, StageTimes] | None = None

    @property
    def cpu_total_ms(self) -> float:
        """CPU milliseconds a request of everything that serves; the load generator does not."""
        return sum(ms for part, ms in self.cpu_ms.items() if part is not Part.LOAD_GENERATOR)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(value: float, base: float) -> float:
    """`value` as a multiple of `base`; NaN where there is no base."""
    return value / base if base else math.nan


def summarize(target: str, phase: Phase, outcome: Outcome, spent: Spent, cores: int) -> Measurement:
    """The numbers of one phase. `spent` was read at the edges of the outcome's window."""
    requests = len(outcome.total_s)
    if requests == 0:
        raise NothingMeasured(target, phase.label, outcome.window_s)
    first_ms = [1000 * seconds for seconds in outcome.first_event_s]
    total_ms = [1000 * seconds for seconds in outcome.total_s]
    return Measurement(
        target=target,
        phase=phase.label,
        requests=requests,
        requests_per_s=requests / outcome.window_s,
        tokens_per_s=requests * phase.output_tokens / outcome.window_s,
        ttft_p50_ms=percentile(first_ms, 0.5) if phase.stream else None,
        ttft_p99_ms=percentile(first_ms, 0.99) if phase.stream else None,
        total_p50_ms=percentile(total_ms, 0.5),
        total_p99_ms=percentile(total_ms, 0.99),
        cpu_ms={part: 1000 * seconds / requests for part, seconds in spent.parts.items()},
        elsewhere_ratio=spent.elsewhere_s / (outcome.window_s * cores),
    )
