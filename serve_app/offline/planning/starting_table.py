"""The part of a plan that is copied into a config."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from serve_app.offline.planning.plan import Plan
from serve_app.offline.planning.queues import Queue
from serve_app.offline.planning.starting import Rates, round_down


def build_starting_table(plan: Plan) -> Table:
    """A column a tier: the two rates of `policy: llm`, and how many calls may wait."""
    table = Table(
        title="To begin with, until it is measured (serve-app measure-rates)",
        title_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("", no_wrap=True)
    known = {name: rates for name, rates in plan.rates.items() if rates is not None}
    for name in known:
        table.add_column(name, justify="right", no_wrap=True)
    queues = {queue.tier: queue for queue in plan.queues}
    for title, cells in _list_rows(plan, known, queues):
        table.add_row(title, *cells)
    return table


def _list_rows(
    plan: Plan, known: dict[str, Rates], queues: dict[str, Queue]
) -> Iterator[tuple[str, list[str]]]:
    rates = known.values()
    yield "replicas.prompt_tokens_per_s", [_round(r.prompt_tokens_per_s) for r in rates]
    yield "replicas.output_tokens_per_s", [_round(r.output_tokens_per_s) for r in rates]
    yield "calls/s, a full replica", [f"{r.calls_per_s(plan.load):,.1f}" for r in rates]
    found = [queues[name] for name in known if name in queues]
    if len(found) == len(known):
        wait = f"max_queued_calls, at most, for {found[0].lease_s:g} s of lease_s"
        yield wait, [_round(queue.served_max) for queue in found]
        yield "max_queued_calls of the config", [f"{queue.queued_max:,}" for queue in found]


def _round(value: float) -> str:
    return f"{round_down(value):,.0f}"
