"""`serve-app plan`: whether a config fits, how fast it could be, and what it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.cli.check import check_engines, read_or_exit
from serve_app.config.scaled import read_scaled
from serve_app.offline.planning.cards import Card, parse_card
from serve_app.offline.planning.compare import TTFT_TARGET_S
from serve_app.offline.planning.plan import Options, make_plan
from serve_app.offline.planning.plan_report import print_plan, render_json
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.prices import compare_prices, parse_tokens
from serve_app.offline.planning.queues import plan_queues
from serve_app.offline.planning.roofline import Workload

_WIDTH_MIN = 100
_SIZE_MAX = 64


def plan(
    config: Annotated[
        Path, typer.Argument(help="A Serve config file, for example configs/prod.yaml.")
    ],
    card: Annotated[
        list[str] | None,
        typer.Option(
            help="The GPU, in place of accelerator_type: H100, or a GPU described as in "
            "docs/planning.md. TIER=H100 sets it for one tier; may be repeated."
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Compare these schemes side by side: bf16,fp8,int8,awq,gptq. The first scheme is "
            "used for the config itself if the config's own scheme is not known."
        ),
    ] = None,
    tensor_parallel: Annotated[
        str | None,
        typer.Option(help="Compare these sizes, each with each scheme: 1,2,4,8."),
    ] = None,
    ttft_ms: Annotated[
        float,
        typer.Option(min=1, max=1e6, help="The slowest TTFT that the comparison accepts."),
    ] = 1000 * TTFT_TARGET_S,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Of a typical call.")
    ] = Workload().prompt_tokens,
    output_tokens: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Of a typical call.")
    ] = Workload().output_tokens,
    nodes: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Nodes of the cluster, per kind of GPU.")
    ] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="GPUs of each node. Default: `placement.gpus_per_node` of each tier.",
        ),
    ] = None,
    disk_gb_s: Annotated[
        float,
        typer.Option(min=0.001, max=1000, help="Rate in GB/s at which a node reads the model."),
    ] = Options().disk_gb_s,
    utilization: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the replicas' capacity that is used.")
    ] = Options().utilization,
    price_per_gpu_hour: Annotated[
        float | None,
        typer.Option(min=0, max=1000, help="Price in any currency. Default: no price."),
    ] = None,
    prices: Annotated[
        bool,
        typer.Option(
            "--prices",
            help="Compare the cost, in dollars, with rented GPUs and with token prices of APIs.",
        ),
    ] = False,
    api_price: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PROMPT/OUTPUT: prices of a million prompt and output tokens, in place of "
            "the shipped token prices; may be repeated."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compute whether a config fits, how fast it could be, and which resources it needs.

    Nothing is started. Exit code 0: the config fits as it is. 1: the config does not fit. 2: the
    config could not be planned.
    """
    serve_config = read_or_exit(config)
    check_engines(config, serve_config)
    scaled = read_scaled(serve_config)
    try:
        made = make_plan(
            scaled.deployed,
            Options(
                cards=_parse_cards(card or []),
                quantizations=tuple(_split(quantization)),
                tensor_parallels=tuple(map(_parse_size, _split(tensor_parallel))),
                load=Workload(prompt_tokens, output_tokens),
                nodes=nodes,
                gpus_per_node=gpus_per_node or Options().gpus_per_node,
                own_nodes=gpus_per_node is None,
                router=scaled.router,
                disk_gb_s=disk_gb_s,
                utilization=utilization,
                price_per_gpu_hour=price_per_gpu_hour,
            ),
        )
        made = replace(made, queues=list(plan_queues(serve_config, made.rates, made.load)))
        given = [parse_tokens(text) for text in api_price or []]
        compared = compare_prices(made, given) if prices or given else []
    except PlanningFailed as failure:
        typer.echo(f"{config}: {failure}", err=True)
        raise typer.Exit(2) from None
    if json:
        typer.echo(render_json(made, compared, ttft_ms / 1000), nl=False)
    else:
        print_plan(Console(width=max(_WIDTH_MIN, Console().width)), made, compared, ttft_ms / 1000)
    raise typer.Exit(0 if made.ok else 1)


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _parse_size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _SIZE_MAX:
        raise PlanningFailed(f"--tensor-parallel: '{text}' is not a number from 1 to {_SIZE_MAX}")
    return int(text)


def _parse_cards(texts: list[str]) -> dict[str, Card]:
    """The cards by tier: `H100` for all tiers (the empty name), `strong=H100` for one tier."""
    cards: dict[str, Card] = {}
    for text in texts:
        tier, equals, rest = text.partition("=")
        named = bool(equals) and "," not in tier
        key = tier.strip() if named else ""
        if key in cards:
            raise PlanningFailed(f"--card: two cards for {key or 'all tiers'}")
        cards[key] = parse_card(rest if named else text)
    return cards
