"""The measured numbers as tables, before they have a form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from serve_app.offline.bench.clocks import Part
from serve_app.offline.bench.summary import Measurement, ratio

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


@dataclass(frozen=True, slots=True)
class Grid:
    """A title, column names, rows of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def build_report(measurements: Sequence[Measurement]) -> list[Grid]:
    """The overview, then rates and CPU of each phase."""
    phases = list(dict.fromkeys(run.phase for run in measurements))
    grids = [_overview(measurements, phases)]
    for phase in phases:
        chosen = [run for run in measurements if run.phase == phase]
        grids += [_rates(phase, chosen), _cpu(phase, chosen)]
    return grids


def _overview(measurements: Sequence[Measurement], phases: Sequence[str]) -> Grid:
    rows = []
    for target in dict.fromkeys(run.target for run in measurements):
        runs = {run.phase: run for run in measurements if run.target == target}
        cells = [_overview_cell(runs.get(phase), measurements) for phase in phases]
        rows.append((target, *cells))
    return Grid("Requests a second (and as a multiple of the peer's)", ("server", *phases), rows)


def _overview_cell(run: Measurement | None, measurements: Sequence[Measurement]) -> str:
    if run is None:
        return "-"
    base = _peer_mean([peer for peer in measurements if peer.phase == run.phase], _request_rate)
    return f"{run.requests_per_s:.1f} ({ratio(run.requests_per_s, base):.2f})"


def _rates(phase: str, runs: Sequence[Measurement]) -> Grid:
    base = _peer_mean(runs, _request_rate)
    rows = [
        (
            run.target,
            f"{run.requests_per_s:.1f}",
            f"{ratio(run.requests_per_s, base):.2f}",
            f"{run.tokens_per_s:,.0f}",
            _milliseconds(run.ttft_p50_ms),
            _milliseconds(run.ttft_p99_ms),
            _milliseconds(run.total_p50_ms),
            _milliseconds(run.total_p99_ms),
            render_elsewhere(run.elsewhere_ratio),
        )
        for run in runs
    ]
    return Grid(phase, _RATES_HEADER, rows)


def _cpu(phase: str, runs: Sequence[Measurement]) -> Grid:
    parts = [part for part in Part if any(_is_shown(run.cpu_ms.get(part)) for run in runs)]
    base = _peer_mean(runs, lambda run: run.cpu_total_ms)
    rows = [
        (
            run.target,
            f"{run.cpu_total_ms:.2f}",
            f"{ratio(run.cpu_total_ms, base):.2f}",
            *(_milliseconds(run.cpu_ms.get(part), digits=2) for part in parts),
        )
        for run in runs
    ]
    return Grid(f"{phase}: CPU ms a request", ("server", "serving", "x peer", *parts), rows)


def _request_rate(run: Measurement) -> float:
    return run.requests_per_s


def _peer_mean(runs: Sequence[Measurement], key: Callable[[Measurement], float]) -> float:
    """Over all runs of the peer, which is measured first and last: drift hits both sides alike."""
    peers = [key(run) for run in runs if run.target.startswith(PEER)]
    return fmean(peers) if peers else 0.0


def _is_shown(milliseconds: float | None) -> bool:
    return milliseconds is not None and milliseconds >= 0.005


def _milliseconds(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or not round(value, digits) else f"{value:.{digits}f}"


def render_elsewhere(share: float) -> str:
    """CPU that no process of the run used. Where it is much, the figures are not reliable."""
    return f"{share:.0%}" + (" (!)" if share > _NOISY_RATIO else "")
