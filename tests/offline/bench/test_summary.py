"""Statistics of a phase."""

from __future__ import annotations

import math

import pytest

from serve_app.offline.bench.bench_errors import NothingMeasured
from serve_app.offline.bench.clocks import Part, Spent
from serve_app.offline.bench.phase import Outcome
from serve_app.offline.bench.summary import percentile, ratio, summarize
from tests.offline.bench.fakes import make_phase

HUNDRED = [float(number) for number in range(100, 0, -1)]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        (HUNDRED, 0.5, 50.0),
        (HUNDRED, 0.99, 99.0),
        (HUNDRED, 1.0, 100.0),
        (HUNDRED, 0.0, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([3.0, 1.0, 2.0], 0.99, 3.0),
        ([7.0], 0.5, 7.0),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    """A percentile is a value that was measured, whatever the order and the number of values."""
    assert percentile(values, share) == expected


def test_percentile_of_nothing() -> None:
    """There is no percentile of no values."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_ratio() -> None:
    """Without a base there is no ratio, rather than an error or a zero."""
    assert ratio(3.0, 2.0) == 1.5
    assert math.isnan(ratio(3.0, 0.0))


def test_summarize_a_stream() -> None:
    """Rates are by the measured window; CPU is by request; the generator's does not serve."""
    outcome = Outcome(
        ["a", "b"], [1.0, 2.0], [0.010, 0.020], [0.100, 0.200], errors={}, window_s=0.5
    )
    spent = Spent({Part.ROUTER: 0.004, Part.LOAD_GENERATOR: 0.010}, elsewhere_s=0.1)
    run = summarize("ours", make_phase(1, output_tokens=16), outcome, spent, cores=2)
    assert (run.requests, run.requests_per_s, run.tokens_per_s) == (2, 4.0, 64.0)
    assert (run.ttft_p50_ms, run.ttft_p99_ms) == (10.0, 20.0)
    assert (run.total_p50_ms, run.total_p99_ms) == (100.0, 200.0)
    assert run.cpu_ms == {Part.ROUTER: 2.0, Part.LOAD_GENERATOR: 5.0}
    assert run.cpu_total_ms == 2.0
    assert run.elsewhere_ratio == pytest.approx(0.1)


def test_summarize_a_whole_answer() -> None:
    """An answer that comes in one piece has no time to first token."""
    outcome = Outcome(["a"], [1.0], [0.1], [0.1], errors={}, window_s=1.0)
    run = summarize("ours", make_phase(1, stream=False), outcome, Spent({}, 0.0), cores=1)
    assert run.ttft_p50_ms is None
    assert run.ttft_p99_ms is None


def test_summarize_nothing() -> None:
    """A phase in which no answer ended is a failure, not a row of zeros."""
    outcome = Outcome([], [], [], [], errors={}, window_s=1.0)
    with pytest.raises(NothingMeasured, match="ours"):
        summarize("ours", make_phase(1), outcome, Spent({}, 0.0), cores=1)
