"""The comparison of prices for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serve_app.model_files.finding import printable
from serve_app.offline.planning.plan import Plan
from serve_app.offline.planning.prices import Comparison, RentCost, TokensCost

_NOTE = (
    "GPUs pay from: the share of a full replica's calls from which on the first GPUs of the table\n"
    "cost less than the tokens, and that load with the fewest replicas. *: another model.\n"
    "List prices, with their sources in serve_app/offline/planning/prices.toml; yours win."
)


def print_prices(console: Console, plan: Plan, prices: Sequence[Comparison]) -> None:
    """Prints a table a tier, and how to read them."""
    for comparison in prices:
        console.print(_build_table(plan, comparison))
    if prices:
        console.print(_NOTE, highlight=False)


def _build_table(plan: Plan, comparison: Comparison) -> Table:
    """GPUs first, then tokens; the last column says from where on the first GPUs are cheaper."""
    title = f"{comparison.tier}: GPUs or tokens, in dollars; 1 M output tokens with their prompts"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("offer", no_wrap=True)
    names = (
        "GPU-hour",
        "month, fewest",
        f"1 M, {plan.utilization:.0%} used",
        "read",
        "GPUs pay from",
    )
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for rent in comparison.rents:
        table.add_row(*_render_rent(rent))
    for tokens in comparison.tokens:
        table.add_row(*_render_tokens(tokens))
    return table


def _render_rent(cost: RentCost) -> tuple[str, ...]:
    rent = cost.rent
    return (
        escape(printable(rent.offer)),
        f"{rent.per_gpu_hour:,.2f}",
        f"{cost.month_min:,.0f}",
        f"{cost.output_million:,.2f}",
        _render_date(rent.read),
        "",
    )


def _render_tokens(cost: TokensCost) -> tuple[str, ...]:
    another = "" if cost.tokens.model or cost.tokens.read is None else " *"
    return (
        escape(printable(cost.tokens.offer)) + another,
        "",
        "",
        f"{cost.output_million:,.2f}",
        _render_date(cost.tokens.read),
        _render_share(cost),
    )


def _render_share(cost: TokensCost) -> str:
    if cost.pays_from_ratio > 1:
        return "never"
    return f"{cost.pays_from_ratio:.0%}, {cost.pays_from_calls_per_s:,.1f} calls/s"


def _render_date(read: date | None) -> str:
    return "given" if read is None else read.isoformat()
