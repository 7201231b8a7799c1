"""The page of a run: tables of what was measured, and the verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import render_grid
from serve_app.offline.bench.machine import Machine
from serve_app.offline.bench.summary import percentile
from tests.soak.samples import MIB, Series
from tests.soak.traffic import Answer
from tests.soak.verdict import (
    DESCRIPTORS,
    LATENCY,
    MEMORY,
    POINTS_MIN,
    SETTLED_SHARE,
    THREADS,
    Bound,
    Line,
    fit,
)

MINUTE_S = 60.0
TIMED = frozenset({"chat, auto, streamed", "chat, fast, streamed"})
"""Latency is that of these kinds, so that the mix does not move it."""
HEAD = """# Soak

What the processes of the service hold, and how fast it answers, under mixed traffic for a long
time. `make soak` runs `configs/local.yaml` with real engines for `SOAK_S` seconds (1,800 by
default) and writes this page.

How to read it: the first half of a run is warm-up. A straight line is fitted to the second half;
*rise* is what the line gains within that half. Memory is the process's own (USS), so that shared
pages count for nobody.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run has measured."""

    machine: Machine
    seconds: float
    clients: int
    series: Sequence[Series]
    answers: Sequence[Answer]
    wrong: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """One value's course in the second half, and the bound that it has to keep."""

    what: str
    line: Line | None
    bound: Bound
    unit: float
    """What the values are divided by for the page."""

    @property
    def holds(self) -> bool | None:
        """Whether it stays within its bound; None if there are too few points to say."""
        return None if self.line is None else self.bound.holds(self.line)


def find_all(run: Run) -> list[Finding]:
    """The findings of every process, and of the latency."""
    found = []
    for series in lasting(run):
        name = f"{series.part} ({series.pid})"
        for field, noun, bound, unit in (
            ("own_bytes", "memory, MiB", MEMORY, MIB),
            ("descriptors", "descriptors", DESCRIPTORS, 1.0),
            ("threads", "threads", THREADS, 1.0),
        ):
            found.append(Finding(f"{name}: {noun}", fit(series.points(field)), bound, unit))
    for share in (0.5, 0.95):
        points = [(at_s, percentile(times, share)) for at_s, times in by_minute(run.answers)]
        name = f"first byte, p{share * 100:g}, ms"
        found.append(Finding(name, fit(points), LATENCY, 0.001))
    return found


def lasting(run: Run) -> list[Series]:
    """The processes that have not ended in the warm-up, as the HAProxy before a reload does."""
    half_s = SETTLED_SHARE * run.seconds
    return [series for series in run.series if series.samples[-1].at_s > half_s]


def replaced(run: Run) -> list[str]:
    """The parts of which a process ended or began in the second half: it has died, or leaked."""
    half_s = SETTLED_SHARE * run.seconds
    end_s = max((series.samples[-1].at_s for series in run.series), default=0.0)
    return [
        series.part
        for series in lasting(run)
        if series.samples[0].at_s > half_s or series.samples[-1].at_s < end_s
    ]


def by_minute(answers: Sequence[Answer]) -> Iterator[tuple[float, list[float]]]:
    """The times to the first byte of the timed kinds, by the minute of their call."""
    minutes: dict[int, list[float]] = {}
    for answer in answers:
        if answer.kind in TIMED and answer.status == 200:
            minutes.setdefault(int(answer.at_s // MINUTE_S), []).append(answer.first_s)
    for minute in sorted(minutes):
        yield minute * MINUTE_S, minutes[minute]


def passed(run: Run) -> bool | None:
    """The verdict; None where the run was too short for one."""
    held = [finding.holds for finding in find_all(run)]
    if run.wrong or replaced(run) or False in held:
        return False
    return None if None in held else True


def render_page(run: Run) -> str:
    """The whole page, in Markdown."""
    verdict = {
        True: "**Passed**: memory, descriptors, threads and latency stay where they are.",
        False: "**Failed**: see the rows with *no*, *replaced* or *wrong*.",
        None: f"**No verdict**: too short. The second half needs {POINTS_MIN} minutes.",
    }[passed(run)]
    lines = [f"- {line}" for line in run.machine.lines]
    lines.append(f"- {run.seconds / MINUTE_S:.0f} minutes, {run.clients} clients in a closed loop")
    parts = [
        HEAD,
        f"## {run.machine.at}\n\n" + "\n".join(lines) + f"\n\n{verdict}\n",
        render_grid(findings_grid(run)),
        render_grid(course_grid(run)),
        render_grid(calls_grid(run)),
    ]
    return "\n".join(parts)


def findings_grid(run: Run) -> Grid:
    """A row for each value."""
    rows = []
    for finding in find_all(run):
        line, unit = finding.line, finding.unit
        course = ("-", "-", "-") if line is None else render_line(line, unit)
        verdict = {True: "yes", False: "**no**", None: "-"}[finding.holds]
        rows.append((finding.what, *course, f"{finding.bound.ratio_max:.0%}", verdict))
    header = ("value", "at half time", "at the end", "rise", "bound", "holds")
    return Grid("The line through the second half", header, rows)


def render_line(line: Line, unit: float) -> tuple[str, str, str]:
    """The ends of a line and its rise."""
    rise = "-" if math.isinf(line.rise_ratio) else f"{line.rise_ratio:+.1%}"
    return f"{line.first / unit:,.1f}", f"{line.last / unit:,.1f}", rise


def course_grid(run: Run) -> Grid:
    """Every few minutes: calls, latency, and the memory of the parts that serve."""
    minutes = list(by_minute(run.answers))
    step = max(1, len(minutes) // 10)
    shown = [series for series in lasting(run) if series.part not in ("GCS", "raylet")]
    header = ("minute", "p50 ms", "p95 ms", *(f"{each.part}, MiB" for each in shown))
    rows = []
    for at_s, times in minutes[::step]:
        memory = [memory_at(series, at_s + MINUTE_S / 2) for series in shown]
        latency = [f"{1000 * percentile(times, share):,.0f}" for share in (0.5, 0.95)]
        rows.append((f"{at_s / MINUTE_S:.0f}", *latency, *memory))
    return Grid("The course", header, rows)


def memory_at(series: Series, at_s: float) -> str:
    """The memory in the sample that is nearest to a time."""
    nearest = min(series.samples, key=lambda sample: abs(sample.at_s - at_s))
    return f"{nearest.own_bytes / MIB:,.0f}"


def calls_grid(run: Run) -> Grid:
    """The calls by kind and status, and what was wrong."""
    counted = Counter((answer.kind, answer.status) for answer in run.answers)
    rows = [(kind, str(status), f"{count:,}") for (kind, status), count in sorted(counted.items())]
    rows += [(f"**replaced**: {part}", "", "") for part in replaced(run)]
    rows += [(f"**wrong**: {what}", "", f"{count:,}") for what, count in run.wrong.items()]
    return Grid(f"{len(run.answers):,} calls", ("kind", "status", "calls"), rows)
