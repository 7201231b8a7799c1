"""A lesson as text tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.config.base import Config
from serve_app.offline.learning.metrics import Estimate

if TYPE_CHECKING:  # they bring scikit-learn along
    from serve_app.offline.learning.confidence import CascadeReport, ThresholdReport
    from serve_app.offline.learning.cost_quality import TiersReport
    from serve_app.offline.learning.lesson import Report


def render_json(report: Report) -> bytes:
    """Every number except the curves."""
    document = asdict(report)
    del document["curves"]
    return orjson.dumps(
        document, Config.model_dump, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )


def print_report(console: Console, report: Report) -> None:
    """Print every table."""
    console.print(
        f"{report.records} calls in {report.groups} groups of near-duplicates; "
        f"right: fast {report.fast_right:.1%}, strong {report.strong_right:.1%}",
        highlight=False,
    )
    for note in _list_notes(report):
        console.print(note, highlight=False)
    for table in build_tables(report):
        console.print(table)


def _list_notes(report: Report) -> Iterator[str]:
    if report.seen:
        yield (
            f"{report.seen} more calls are not measured, because the weights have learnt from them "
            "or from near-duplicates"
        )
    if report.seen_unknown:
        yield (
            "The weights do not say what they were learnt from: if they know these calls, the "
            "figures flatter"
        )


def build_tables(report: Report) -> Iterator[Table]:
    """The scorers; each task, where tasks are named; a cascade, where drafts are known."""
    header = ("scorer", "APGR", "CPT50, % strong", "CPT80, % strong", "gain off by, points")
    table = _begin_table("How well each orders the calls (95 % intervals)", *header)
    for name, m in report.scorers.items():
        off = "-" if m.ece is None else _render(m.ece, 100, 1)
        table.add_row(
            name, _render(m.apgr, 1, 3), _render(m.cpt50, 100, 0), _render(m.cpt80, 100, 0), off
        )
    yield table
    if report.tasks:
        first = next(iter(report.scorers))
        header = ("task", "calls", "fast right %", "strong right %", "APGR within")
        table = _begin_table(f"Each task by itself: {first}", *header)
        for task, t in report.tasks.items():
            within = "-" if t.apgr is None else f"{t.apgr:.3f}"
            fast, strong = f"{100 * t.fast_right:.1f}", f"{100 * t.strong_right:.1f}"
            table.add_row(task, str(t.records), fast, strong, within)
        yield table
    if report.tiers is not None:
        yield _build_heads_table(report.tiers)
        yield _build_ways_table(report.tiers)
    if report.cascade is not None:
        yield _build_cascade_table(report.cascade)


def _build_heads_table(found: TiersReport) -> Table:
    title = f"Each tier's own P(right), on {found.records} calls with a label of every tier"
    table = _begin_table(title, "tier", "price", "right %", "AUC", "off by, points")
    for tier in found.tiers:
        auc = "-" if tier.auc is None else f"{tier.auc:.3f}"
        right, off = f"{100 * tier.right:.1f}", f"{100 * tier.ece:.1f}"
        table.add_row(tier.name, f"{tier.price:g}", right, auc, off)
    return table


def _build_ways_table(found: TiersReport) -> Table:
    budgets = list(next(iter(found.ways.values())).at)
    header = ("AIQ %", "first leads by, points", *(f"% at {cost}" for cost in budgets))
    table = _begin_table("The choice among the tiers: quality over cost", "chosen by", *header)
    for name, way in found.ways.items():
        cells = (f"{100 * way.at[cost]:.1f}" for cost in budgets)
        table.add_row(name, _render(way.aiq, 100, 1), _render(way.lead, 100, 1), *cells)
    return table


def _build_cascade_table(cascade: CascadeReport) -> Table:
    title = (
        f"A cascade, by {cascade.drafts} held-out drafts: P(right) has AUC {cascade.auc:.3f} and is"
        f" off by {100 * cascade.ece:.1f} points"
    )
    header = ("strong calls %", "released right %", "right in all %", "of strong's %")
    table = _begin_table(title, "confidence_min", *header)
    for threshold in cascade.thresholds:
        table.add_row(f"{threshold.confidence_min:g}", *_render_threshold(threshold))
    table.add_section()
    name = f"{cascade.chosen.confidence_min:g}, keeps {cascade.quality_min:.0%} of strong's"
    table.add_row(name, *_render_threshold(cascade.chosen))
    return table


def _render_threshold(report: ThresholdReport) -> Iterator[str]:
    for share in (report.escalated_ratio, report.released_right, report.right, report.of_strong):
        yield "-" if share is None else f"{100 * share:.1f}"


def _begin_table(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title, title_justify="left", box=box.SIMPLE)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _render(estimate: Estimate, scale: float, digits: int) -> str:
    if estimate.value is None or estimate.interval is None:
        return "-"
    low, high = scale * estimate.interval.low, scale * estimate.interval.high
    return f"{scale * estimate.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
