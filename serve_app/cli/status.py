"""`serve-app status`: one screen on a running service, over all its Routers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import orjson
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serve_app.cli.reload import ClusterOption, DashboardOption
from serve_app.config.app import AppConfig
from serve_app.config.dashboard import DASHBOARD
from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.core.call import TierState
from serve_app.deploy.live import (
    Document,
    ServiceNotFound,
    ask_routers,
    open_cluster,
    open_live,
)
from serve_app.pages.summary import Summary, TierRow, summarise

RUNNING = "RUNNING"
WATCH_S = 2.0
FAILED_RATIO = 0.01
"""Errors above this share of the calls are an alarm, as in cluster/monitoring/alerts.yaml."""
SHARE_OFF = 0.1
"""How far the share may be off its target, as in cluster/monitoring/alerts.yaml."""


def status(
    dashboard: DashboardOption = DASHBOARD,
    cluster: ClusterOption = "auto",
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a screen.")] = False,
) -> None:
    """Show tiers, replicas, waits, shares, savings and alarms of a running service.

    Exit code 0: no alarm. 3: there are alarms. 1: the service cannot be asked.
    """
    console = Console()
    try:
        with open_live(dashboard) as live, open_cluster(cluster):
            if watch:
                with Live(console=console, screen=console.is_terminal) as screen:
                    while True:
                        screen.update(render_status(read_summary(live.find())))
                        time.sleep(WATCH_S)
            summary = read_summary(live.find())
    except ServiceNotFound as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        return
    if json:
        typer.echo(orjson.dumps(summary))
    else:
        console.print(render_status(summary))
    if any(find_alarms(summary)):
        raise typer.Exit(3)


def read_summary(application: Document) -> Summary:
    """What all Routers and Serve know at this moment, on an open connection.

    Raises:
        ServiceNotFound: the Routers do not answer.
    """
    numbers = ask_routers(application["name"], "read_numbers")
    states = list(read_states(application))
    return summarise(numbers, states, missing=0, at=time.time(), unclear=None)


def read_states(application: Document) -> Iterator[TierState]:
    """The tiers as Serve sees them."""
    app = AppConfig.model_validate(application["deployed_app_config"]["args"])
    for tier in app.tiers:
        found = application["deployments"].get(DEPLOYMENT_PREFIX + tier.name)
        replicas = [] if found is None else found["replicas"]
        running = sum(replica["state"] == RUNNING for replica in replicas)
        status = "UNKNOWN" if found is None else found["status"]
        message = None if found is None else found["message"].strip() or None
        yield TierState(tier.name, tier.model_id, running > 0, running, status, message)


def find_alarms(summary: Summary) -> Iterator[str]:
    """What an operator should look at, one line each."""
    for tier in summary.tiers:
        if not tier.ready:
            yield f"{tier.name}: no replica runs ({tier.message or tier.status})"
        elif tier.message:
            yield f"{tier.name}: {tier.message}"
        if tier.down_for:
            yield f"{tier.name}: down for {tier.down_for} of {len(summary.routers)} Routers"
        if tier.avoided:
            yield f"{tier.name}: {tier.avoided} replicas have just failed"
    calls, routing = summary.calls, summary.routing
    if calls.ended and calls.failed / calls.ended > FAILED_RATIO:
        yield f"{calls.failed} of {calls.ended} calls failed in the last minutes"
    if routing.drifting:
        yield "the scores of the prompts drift: run `serve-app calibrate` again"
    if (
        routing.target is not None
        and routing.share is not None
        and abs(routing.share - routing.target) > SHARE_OFF
    ):
        yield f"the share of {routing.strongest} is {routing.share:.0%}, not {routing.target:.0%}"
    if summary.missing:
        yield f"{summary.missing} Routers do not answer"


def render_status(summary: Summary) -> RenderableType:
    """The screen."""
    alarms = [Text(f"! {alarm}", style="bold red") for alarm in find_alarms(summary)]
    quiet = [] if alarms else [Text("No alarms.", style="green")]
    return Group(*_list_headings(summary), draw_tiers(summary), *alarms, *quiet)


def _list_headings(summary: Summary) -> Iterator[Text]:
    calls, routing = summary.calls, summary.routing
    minutes = summary.window_s / 60
    yield Text(
        f"{len(summary.routers)} Routers · {calls.in_flight} calls in flight · "
        f"{calls.per_s:.1f} calls/s · {calls.failed} of {calls.ended} failed in {minutes:.0f} min"
    )
    if routing.share is not None:
        target = "" if routing.target is None else f" (target {routing.target:.0%})"
        yield Text(f"{routing.strongest} has {routing.share:.0%} of the routed calls{target}")
    if (money := summary.money) is not None:
        yield Text(
            f"saved {money.saved_lately:.4g} {money.currency} in {minutes:.0f} min, beside a cost "
            f"of {money.cost_lately:.4g}"
        )


def draw_tiers(summary: Summary) -> Table:
    """One row a tier."""
    table = Table(box=None, padding=(0, 1))
    for heading in (
        "tier", "replicas", "ongoing", "waiting", "first token", "p95", "tokens/s", "KV cache"
    ):  # fmt: skip
        table.add_column(heading, no_wrap=True)
    for tier in summary.tiers:
        table.add_row(*_list_cells(tier))
    return table


def _list_cells(tier: TierRow) -> Iterator[str]:
    yield tier.name
    yield str(tier.replicas)
    yield str(tier.ongoing)
    yield str(tier.waiting)
    for seconds in (tier.first_token_p50_s, tier.first_token_p95_s):
        yield "-" if seconds is None else f"{seconds:g} s"
    yield f"{tier.output_tokens_per_s:,.0f}"
    yield "-" if tier.kv_used_ratio is None else f"{tier.kv_used_ratio:.0%}"
