"""The measured numbers as tables, before they have a form.

With several rounds a cell holds the median over the rounds, and the smallest and the largest value
in brackets. Ratios are formed within a round, so that a drift of the machine meets both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from serve_app.offline.bench.clocks import Part
from serve_app.offline.bench.stages import BOUNDS_MS, STAGES
from serve_app.offline.bench.summary import Measurement, StageTimes, ratio

PEER = "peer"
_NOISY_RATIO = 0.1
_RATES_HEADER = (
    "server",
    "requests/s",
    "x peer",
    "tokens/s",
    "TTFT p50 ms",
    "TTFT p99 ms",
    "total p50 ms",
    "total p99 ms",
    "CPU elsewhere",
)
_STAGES_HEADER = ("stage", "p50 ms", "p99 ms", "mean ms", "slowest 1 %: mean ms")

Key = Callable[[Measurement], float | None]


@dataclass(frozen=True, slots=True)
class Grid:
    """A title, column names, rows of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Series:
    """The rounds of one target under one phase, and those of the peer."""

    target: str
    runs: Sequence[Measurement]
    peers: Sequence[Measurement]

    def spread(self, key: Key, digits: int = 1) -> str:
        """The median of a value, and its range."""
        return render_spread([key(run) for run in self.runs], digits)

    def ratio(self, key: Callable[[Measurement], float]) -> str:
        """The same of the value as a multiple of the peer's in the same round."""
        return render_spread([ratio(key(run), self._base(run, key)) for run in self.runs], 2)

    def _base(self, run: Measurement, key: Callable[[Measurement], float]) -> float:
        values = [key(peer) for peer in self.peers if peer.round == run.round]
        return fmean(values) if values else 0.0


def build_report(measurements: Sequence[Measurement]) -> list[Grid]:
    """The overview, then rates, CPU and stages of each phase."""
    phases = list(dict.fromkeys(run.phase for run in measurements))
    grids = [_overview(measurements, phases)]
    for phase in phases:
        series = list(_series(measurements, phase))
        grids += [_rates(phase, series), _cpu(phase, series), *_stages(phase, series)]
    return grids


def _series(measurements: Sequence[Measurement], phase: str) -> Iterator[Series]:
    chosen = [run for run in measurements if run.phase == phase]
    peers = [run for run in chosen if run.target.startswith(PEER)]
    for target in dict.fromkeys(run.target for run in chosen):
        yield Series(target, [run for run in chosen if run.target == target], peers)


def _overview(measurements: Sequence[Measurement], phases: Sequence[str]) -> Grid:
    cells = {
        (series.target, phase): f"{series.spread(_request_rate)} x {series.ratio(_request_rate)}"
        for phase in phases
        for series in _series(measurements, phase)
    }
    targets = dict.fromkeys(run.target for run in measurements)
    rows = [(name, *(cells.get((name, phase), "-") for phase in phases)) for name in targets]
    return Grid("Requests a second, and as a multiple of the peer's", ("server", *phases), rows)


def _rates(phase: str, series: Sequence[Series]) -> Grid:
    rows = [
        (
            each.target,
            each.spread(_request_rate),
            each.ratio(_request_rate),
            f"{median(run.tokens_per_s for run in each.runs):,.0f}",
            each.spread(lambda run: run.ttft_p50_ms),
            each.spread(lambda run: run.ttft_p99_ms),
            each.spread(lambda run: run.total_p50_ms),
            each.spread(lambda run: run.total_p99_ms),
            render_elsewhere(median(run.elsewhere_ratio for run in each.runs)),
        )
        for each in series
    ]
    return Grid(phase, _RATES_HEADER, rows)


def _cpu(phase: str, series: Sequence[Series]) -> Grid:
    """The parts are medians; the range is that of their sum."""
    parts = [part for part in Part if any(_cpu_ms(each, part) >= 0.005 for each in series)]
    rows = [
        (
            each.target,
            each.spread(_cpu_total_ms, digits=2),
            each.ratio(_cpu_total_ms),
            *(render_spread([_cpu_ms(each, part)], digits=2) for part in parts),
        )
        for each in series
    ]
    return Grid(f"{phase}: CPU ms a request", ("server", "serving", "x peer", *parts), rows)


def _cpu_ms(series: Series, part: Part) -> float:
    return median(run.cpu_ms.get(part, 0.0) for run in series.runs)


def _stages(phase: str, series: Sequence[Series]) -> Iterator[Grid]:
    """A table for each target whose calls noted their stages."""
    bounds = [f"{bound:g}" for bound in BOUNDS_MS]
    edges = [f"< {bounds[0]}", *(f"< {bound}" for bound in bounds[1:]), f">= {bounds[-1]}"]
    for each in series:
        noted = [run.stages for run in each.runs if run.stages]
        if noted:
            rows = [(stage, *_stage_cells([times[stage] for times in noted])) for stage in STAGES]
            title = f"{phase}: stages of a call, {each.target}; calls in % by milliseconds"
            yield Grid(title, (*_STAGES_HEADER, *edges), rows)


def _stage_cells(rounds: Sequence[StageTimes]) -> Iterator[str]:
    yield render_spread([times.p50_ms for times in rounds], 2)
    yield render_spread([times.p99_ms for times in rounds], 2)
    yield render_spread([times.mean_ms for times in rounds], 2)
    yield render_spread([times.slowest_ms for times in rounds], 2)
    counts = [sum(column) for column in zip(*(times.counts for times in rounds), strict=True)]
    for count in counts:
        yield f"{100 * count / sum(counts):.1f}" if count else "-"


def _request_rate(run: Measurement) -> float:
    return run.requests_per_s


def _cpu_total_ms(run: Measurement) -> float:
    return run.cpu_total_ms


def render_spread(values: Sequence[float | None], digits: int) -> str:
    """The median, with the range if there are several values; a dash where it would be 0."""
    known = [value for value in values if value is not None]
    if not known or not round(median(known), digits):
        return "-"
    middle = f"{median(known):.{digits}f}"
    if len(known) == 1:
        return middle
    return f"{middle} ({min(known):.{digits}f}-{max(known):.{digits}f})"


def render_elsewhere(share: float) -> str:
    """CPU that no process of the run used. Where it is much, the figures are not reliable."""
    return f"{share:.0%}" + (" (!)" if share > _NOISY_RATIO else "")
