"""A plan as text tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serve_app.model_files.finding import printable
from serve_app.offline.planning.cards import GIB
from serve_app.offline.planning.compare import TTFT_TARGET_S, find_cheapest, is_fast, tell_cheapest
from serve_app.offline.planning.cost import Cost, Pool
from serve_app.offline.planning.plan import Plan, TierPlan, Variant
from serve_app.offline.planning.prices import Comparison
from serve_app.offline.planning.prices_table import print_prices
from serve_app.offline.planning.roofline import BATCH_CALLS, Speed
from serve_app.offline.planning.starting_table import build_starting_table

KIB = 1024

_LIMITS = {"KV cache": "KV cache", "max_num_seqs": "seqs", "target_ongoing_calls": "target"}


def render_json(
    plan: Plan, prices: Sequence[Comparison] = (), ttft_s: float = TTFT_TARGET_S
) -> bytes:
    """Every number of the tables, unrounded; `ok` is that of the exit code."""
    cheapest = {tier.tier: find_cheapest(tier.compared, ttft_s) for tier in plan.tiers}
    document = {
        **asdict(plan),
        "ok": plan.ok,
        "findings": plan.findings,
        "ttft_target_s": ttft_s,
        "cheapest": {
            name: best and [best.scheme, best.parallel] for name, best in cheapest.items()
        },
        "prices": prices,
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document, option=options)


def print_plan(
    console: Console,
    plan: Plan,
    prices: Sequence[Comparison] = (),
    ttft_s: float = TTFT_TARGET_S,
) -> None:
    """Print a table for each tier, its comparison, the cluster, prices if requested, and the
    findings."""
    for tier in plan.tiers:
        _print_tier(console, plan, tier)
        if tier.card is None:
            console.print("  No speed is estimated for a CPU.\n", highlight=False)
        if tier.compared:
            console.print(_build_comparison(tier, ttft_s))
            console.print(f"{tell_cheapest(tier, ttft_s)}\n", highlight=False, soft_wrap=True)
    if plan.pools:
        console.print(_build_pool_table(plan.pools))
    if any(plan.rates.values()):
        console.print(build_starting_table(plan))
    print_prices(console, plan, prices)
    for text in (*map(str, plan.findings), *_tell_others(plan)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if any(tier.card for tier in plan.tiers):
        text = "Speeds are estimates from peak rates, not measurements: docs/planning.md."
        console.print(text, highlight=False)


def _tell_others(plan: Plan) -> Iterator[str]:
    """The reason why a compared quantisation cannot be started."""
    for tier in plan.tiers:
        for variant in tier.variants[1:]:
            for finding in (found for found in variant.findings if found.fatal):
                yield f"with {variant.scheme}: {finding}"


def _print_tier(console: Console, plan: Plan, tier: TierPlan) -> None:
    size = f"{_parameters(tier.parameters)} parameters"
    if tier.active_parameters != tier.parameters:
        size += f", {_parameters(tier.active_parameters)} active"
    on = f"{tier.gpus} x {tier.card.full_name}" if tier.card else "CPU"
    title = escape(printable(f"{tier.tier}: {tier.model} ({size}) on {on}, {tier.parallel}"))
    table = Table(box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for variant in tier.variants:
        table.add_column(variant.scheme, justify="right", no_wrap=True)
    for name, render in _list_rows(plan, tier):
        table.add_row(name, *map(render, tier.variants))
    # Not the table's own title, which would be folded to the width of a narrow table.
    console.print(title, style="italic", highlight=False)
    console.print(table)


def _build_comparison(tier: TierPlan, ttft_s: float) -> Table:
    table = Table(title=f"{tier.tier}, compared", title_justify="left", box=box.SIMPLE)
    table.add_column("weights", no_wrap=True)
    for name, _ in _COMPARED:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("GPU-hours, 1 M", justify="right", no_wrap=True)
    best = find_cheapest(tier.compared, ttft_s)
    for variant in tier.compared:
        late = variant.speed is not None and not is_fast(variant, ttft_s)
        mark = " *" if variant is best else " late" if late else ""
        hours = f"{variant.gpu_hours:.3g}{mark}" if variant.cost else "cannot start"
        table.add_row(variant.scheme, *(render(variant) for _, render in _COMPARED), hours)
    return table


Render = Callable[[Variant], str]


def _list_rows(plan: Plan, tier: TierPlan) -> Iterator[tuple[str, Render]]:
    load, length = plan.load, tier.variants[0].memory.max_model_len
    gpu = "GPU" if tier.card else "worker"
    yield "can be started", lambda v: "yes" if v.ok else "NO"
    yield f"weights a {gpu}, GiB", lambda v: _gib(v.memory.weights_bytes)
    if tier.card:
        yield (
            "activations and overhead, GiB",
            lambda v: _gib(v.memory.activation_bytes + v.memory.overhead_bytes),
        )
    yield f"left for keys and values a {gpu}, GiB", lambda v: _gib(v.memory.kv_bytes)
    yield f"keys and values a token a {gpu}, KiB", lambda v: f"{v.memory.kv_bytes_a_token / KIB:g}"
    yield "tokens in the KV cache", lambda v: f"{v.memory.kv_tokens:,}"
    yield f"calls of {length:,} tokens at a time", lambda v: f"{v.memory.concurrency:,.1f}"
    yield f"calls of {load.tokens:,} tokens at a time", lambda v: f"{v.typical_calls:,.0f}"
    yield "longest context that fits", lambda v: f"{v.longest_tokens:,}"
    if tier.card and tier.reads:
        yield f"{load.prompt_tokens:,} tokens alone, ms", _of_speed(_render_first)
        yield (
            "tokens/s, the replica",
            lambda v: f"{v.rates.prompt_tokens_per_s:,.0f}" if v.rates else "-",
        )
    elif tier.card:
        yield from _list_speeds(plan)


def _render_first(speed: Speed) -> str:
    return f"{1000 * speed.ttft_s:,.0f}"


def _list_speeds(plan: Plan) -> Iterator[tuple[str, Render]]:
    load = plan.load
    yield f"TTFT of {load.prompt_tokens:,} tokens, ms", _of_speed(_render_first)
    yield "tokens/s, one call alone", _of_speed(lambda s: f"{s.single_tokens_per_s:,.0f}")
    yield f"tokens/s, {BATCH_CALLS} calls, decoding", _render_batch
    yield "calls in flight", lambda v: f"{v.calls:,.0f}"
    yield "kept from more by", lambda v: _LIMITS[v.limited_by]
    yield "tokens/s, each of them", _of_speed(lambda s: f"{s.call_tokens_per_s:,.0f}")
    yield "tokens/s, the replica", _of_speed(lambda s: f"{s.tokens_per_s:,.0f}")
    yield "calls/s, the replica", _of_speed(lambda s: f"{s.calls_per_s:,.1f}")
    yield f"to read at {plan.disk_gb_s:g} GB/s, s", _of_cost(lambda c: f"{c.load_s:,.0f}")
    used = f"{plan.utilization:.0%} used"
    yield (
        f"GPU-hours, 1 M output tokens, {used}",
        _of_cost(lambda c: f"{c.gpu_hours_a_million:.3g}"),
    )
    if plan.price_per_gpu_hour is not None:
        yield (
            f"price, 1 M output tokens, {used}",
            _of_cost(lambda c: _money(c.price_a_million)),
        )
        yield "price a month, fewest replicas", _of_cost(lambda c: _money(c.price_a_month_min))
        yield "price a month, most replicas", _of_cost(lambda c: _money(c.price_a_month_max))


def _render_batch(variant: Variant) -> str:
    if variant.speed is None or variant.typical_calls < BATCH_CALLS:
        return "-"
    return f"{variant.speed.batch_tokens_per_s:,.0f}"


def _of_speed(render: Callable[[Speed], str]) -> Render:
    return lambda variant: "-" if variant.speed is None else render(variant.speed)


def _of_cost(render: Callable[[Cost], str]) -> Render:
    return lambda variant: "-" if variant.cost is None else render(variant.cost)


_COMPARED: tuple[tuple[str, Render], ...] = (
    ("run as", lambda variant: variant.parallel),
    ("GPUs", lambda variant: str(variant.gpus)),
    ("TTFT, ms", _of_speed(lambda speed: f"{1000 * speed.ttft_s:,.0f}")),
    ("tokens/s alone", _of_speed(lambda speed: f"{speed.single_tokens_per_s:,.0f}")),
    ("each", _of_speed(lambda speed: f"{speed.call_tokens_per_s:,.0f}")),
    ("the replica", _of_speed(lambda speed: f"{speed.tokens_per_s:,.0f}")),
)
"""Columns of a comparison."""


def _build_pool_table(pools: list[Pool]) -> Table:
    table = Table("nodes", title="The cluster", title_justify="left", box=box.SIMPLE)
    for name in ("GPUs", "fewest replicas", "most replicas", "room, others at their fewest"):
        table.add_column(name, justify="right")
    for pool in pools:
        most = ", ".join(f"{tier} {count}" for tier, count in pool.most.items())
        table.add_row(
            escape(printable(f"{pool.nodes} of {pool.gpus_per_node} x {pool.card}")),
            str(pool.nodes * pool.gpus_per_node),
            _render_need(pool.gpus_min, pool.min_fits),
            _render_need(pool.gpus_max, pool.max_fits),
            most,
        )
    return table


def _render_need(gpus: int, fits: bool) -> str:
    return f"{gpus} GPUs, {'fit' if fits else 'do NOT fit'}"


def _parameters(count: int) -> str:
    return f"{count / 1e9:.3g} B" if count >= 1e8 else f"{count / 1e6:.3g} M"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}" if abs(size) >= GIB / 10 else f"{size / GIB:.2g}"


def _money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}" if amount < 1000 else f"{amount:,.0f}"
