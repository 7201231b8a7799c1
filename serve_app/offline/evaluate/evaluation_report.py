"""An evaluation as text tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.offline.evaluate.stats import Difference
from serve_app.offline.evaluate.summary import ModelSummary, Share, Summary


def render_json(summary: Summary) -> bytes:
    """Every number of the summary."""
    return orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def print_report(console: Console, summary: Summary) -> None:
    """Print every table."""
    for table in build_tables(summary):
        console.print(table)


def build_tables(summary: Summary) -> Iterator[Table]:
    """The results of each model in a column each; then its accuracy by each key of the tags."""
    names = [model.model for model in summary.models]
    table = _begin_table(f"{summary.dataset}: {summary.questions} questions", "", names)
    columns = [_model_cells(model) for model in summary.models]
    for label, *cells in zip(_row_labels(summary.strong), *columns, strict=True):
        table.add_row(label, *cells)
    yield table
    for key, values in summary.tags.items():
        table = _begin_table(f"Right %, by {key}", key, names)
        for value, shares in values.items():
            table.add_row(value, *(_render_share(shares.get(name)) for name in names))
        yield table


def _begin_table(title: str, first: str, others: Sequence[str]) -> Table:
    table = Table(first, title=title, title_justify="left", box=box.SIMPLE)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _row_labels(strong: str) -> Sequence[str]:
    return (
        "right %",
        f"right % vs {strong}",
        "p (McNemar)",
        "strong calls %",
        "random mix, right %",
        "mean price",
        "tiers mixed at that price, right %",
        "TTFT p50 / p95 ms",
        "total p50 / p95 ms",
        "errors",
    )


def _model_cells(model: ModelSummary) -> Sequence[str]:
    """In the order of the labels."""
    return (
        _render_share(model.accuracy),
        _render_difference(model.difference),
        _render_p(model.difference),
        _percent(model.strong_ratio),
        _percent(model.random_mix_ratio),
        "-" if model.cost is None else f"{model.cost:g}",
        _percent(model.same_cost_ratio),
        f"{_milliseconds(model.ttft_p50_s)} / {_milliseconds(model.ttft_p95_s)}",
        f"{_milliseconds(model.total_p50_s)} / {_milliseconds(model.total_p95_s)}",
        str(model.errors),
    )


def _render_share(share: Share | None) -> str:
    if share is None:
        return "-"
    low, high = _percent(share.interval.low), _percent(share.interval.high)
    return f"{_percent(share.ratio)} ({low} to {high}), n={share.total}"


def _render_difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    low, high = 100 * difference.interval.low, 100 * difference.interval.high
    return f"{100 * difference.mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _render_p(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.0f}"
