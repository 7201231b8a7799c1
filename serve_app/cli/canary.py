"""`serve-app canary`: give a variant a share of a tier, watch it, promote it, take it back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table

from serve_app.cli.check import read_or_exit
from serve_app.cli.reload import (
    ClusterOption,
    DashboardOption,
    WaitOption,
    apply_config,
    confirm_config,
)
from serve_app.config.dashboard import DASHBOARD
from serve_app.config.edit import NotEditable, set_router_key
from serve_app.config.reader import ConfigError, ServeConfig, read_serve_config
from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.config.variants import SEPARATOR, TierVariantsConfig
from serve_app.deploy.live import (
    ChangeRefused,
    Document,
    ServiceNotFound,
    ask_routers,
    open_cluster,
    open_live,
)
from serve_app.variants.trials import RouterReport, merge_reports

FileArgument = Annotated[
    Path, typer.Argument(help="The Serve config file of the running service; it is changed.")
]
TierArgument = Annotated[str, typer.Argument(help="The tier, for example `fast`.")]
VariantArgument = Annotated[str, typer.Argument(help="The variant, for example `next`.")]
RUNNING = "RUNNING"


class CanaryRefused(Exception):
    """The change cannot be made; the message says why."""


def status(
    dashboard: DashboardOption = DASHBOARD,
    cluster: ClusterOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the share, the calls and the bad ends of each variant, over all Routers."""
    try:
        with open_live(dashboard) as live:
            application = live.find()
            with open_cluster(cluster):
                reports = ask_routers(application["name"], "read_trials")
    except ServiceNotFound as error:
        _fail(error)
    if json:
        typer.echo(orjson.dumps(render_rows(application, reports)))
    else:
        Console().print(draw_table(render_rows(application, reports)))


def set_share(
    config: FileArgument,
    tier: TierArgument,
    variant: VariantArgument,
    share: Annotated[str, typer.Argument(help="The share of the calls, as 0.1 or 10%.")],
    dashboard: DashboardOption = DASHBOARD,
    cluster: ClusterOption = "auto",
    wait_s: WaitOption = 60.0,
) -> None:
    """Give a variant a share of its tier's calls, in the file and in the running Routers.

    A variant that had no share, or that is rolled back, begins a new trial.
    """
    _change(config, tier, variant, parse_share(share), dashboard, cluster, wait_s)


def promote(
    config: FileArgument,
    tier: TierArgument,
    variant: VariantArgument,
    dashboard: DashboardOption = DASHBOARD,
    cluster: ClusterOption = "auto",
    wait_s: WaitOption = 60.0,
) -> None:
    """Give a variant all calls of its tier, if it has as many replicas as the incumbent.

    The incumbent keeps its replicas, so that `canary set` can go back at once. It has no calls, so
    autoscaling takes them down to `replicas.min`.
    """
    _change(config, tier, variant, 1.0, dashboard, cluster, wait_s)


def abort(
    config: FileArgument,
    tier: TierArgument,
    variant: VariantArgument,
    dashboard: DashboardOption = DASHBOARD,
    cluster: ClusterOption = "auto",
    wait_s: WaitOption = 60.0,
) -> None:
    """Give all calls of a variant back to the incumbent."""
    _change(config, tier, variant, 0.0, dashboard, cluster, wait_s)


def parse_share(text: str) -> float:
    """The share that a person writes as a number or in percent.

    Raises:
        typer.BadParameter: it is neither, or not within 0 and 1.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"'{text}' is not a share; write 0.1 or 10%")
    return share


def _find_rolled_back(application: Document, cluster: str) -> set[tuple[str, str]]:
    """The variants that are out, with their tiers."""
    with open_cluster(cluster):
        merged = merge_reports(ask_routers(application["name"], "read_trials"))
    return {(tier, name) for tier, trial in merged.items() for name in trial.out}


def _change(
    path: Path, tier: str, variant: str, share: float, dashboard: str, cluster: str, wait_s: float
) -> None:
    config = read_or_exit(path)
    try:
        with open_live(dashboard) as live:
            application = live.find()
            if share == 1:
                check_room(application, tier, variant)
            anew = (tier, variant) in _find_rolled_back(application, cluster)
            text = change_share(
                path.read_text(encoding="utf-8"), config, tier, variant, share, anew=anew
            )
            changed = _read_changed(path, text)
            apply_config(live, changed, wait_s=wait_s)
            _write(path, text)
            typer.echo(f"{path} has it too.")
            confirm_config(changed, cluster)
    except (ServiceNotFound, ChangeRefused, CanaryRefused, NotEditable) as error:
        _fail(error)


def change_share(
    text: str, config: ServeConfig, tier: str, variant: str, share: float, *, anew: bool = False
) -> str:
    """The text of a config with another share of one variant; `anew` begins a new trial.

    Raises:
        CanaryRefused: the config has no such variant.
        NotEditable: the text leaves no place for the key.
    """
    known = [one.name for one in config.app.variants if one.tier == tier]
    if variant not in known:
        found = ", ".join(known) or "none"
        raise CanaryRefused(
            f"'{variant}' is no variant of {tier} in args.variants; there is {found}"
        )
    before = config.runtime.variants.get(tier, TierVariantsConfig())
    shares = {**before.shares, variant: share}
    if share == 1:
        shares = {variant: 1.0}
    written: dict[str, Any] = {
        name: one.model_dump(mode="json", exclude_unset=True)
        for name, one in config.runtime.variants.items()
    }
    own = {**written.get(tier, {}), "shares": {name: part for name, part in shares.items() if part}}
    if anew or not before.shares.get(variant) or share == 0:
        own["trial"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if sum(shares.values()) >= 1 and own.get("rollback") is not None:
        del own["rollback"]  # There is nothing left to compare with.
    return set_router_key(text, "variants", {**written, tier: own})


def check_room(application: Document, tier: str, variant: str) -> None:
    """Check that a variant runs as many replicas as its incumbent.

    Raises:
        CanaryRefused: it does not.
    """
    runs = {
        name: sum(replica["state"] == RUNNING for replica in deployment["replicas"])
        for name, deployment in application["deployments"].items()
    }
    incumbent = DEPLOYMENT_PREFIX + tier
    replicas = runs.get(f"{incumbent}{SEPARATOR}{variant}", 0)
    if replicas < max(1, runs.get(incumbent, 0)):
        raise CanaryRefused(
            f"{variant} runs {replicas} replicas and {tier} {runs.get(incumbent, 0)}; raise its "
            "replicas.min first, or give it a larger share step by step (`canary set`)"
        )


def _read_changed(path: Path, text: str) -> ServeConfig:
    draft = path.with_name(f".{path.name}.canary")
    draft.write_text(text, encoding="utf-8")
    try:
        return read_serve_config(draft)
    except ConfigError as error:
        raise CanaryRefused(str(error)) from None
    finally:
        draft.unlink()


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.canary")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def render_rows(
    application: Mapping[str, Any], reports: Sequence[RouterReport]
) -> list[dict[str, Any]]:
    """One row for each variant and incumbent, with what all Routers know."""
    rows = []
    for tier, trial in merge_reports(reports).items():
        for name, share in trial.shares.items():
            tally = trial.tallies.get(name)
            deployment = f"{DEPLOYMENT_PREFIX}{tier}{SEPARATOR + name if name else ''}"
            found = application["deployments"].get(deployment, {"replicas": []})
            rows.append(
                {
                    "tier": tier,
                    "variant": name or "(incumbent)",
                    "share": share,
                    "replicas": sum(one["state"] == RUNNING for one in found["replicas"]),
                    "calls": tally.calls if tally else 0,
                    # A Router names signals by members of an enum.
                    "bad": {str(signal): bad for signal, bad in tally.bad.items()} if tally else {},
                    "rolled_back": trial.out.get(name),
                }
            )
    return rows


def draw_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows for a person."""
    table = Table(box=None, padding=(0, 2))
    for heading in ("tier", "variant", "share", "replicas", "calls", "bad ends", ""):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        bad = ", ".join(f"{signal} {count}" for signal, count in row["bad"].items())
        out = f"rolled back: {row['rolled_back']}" if row["rolled_back"] else ""
        share = f"{row['share']:.0%}"
        numbers = (str(row["replicas"]), str(row["calls"]))
        table.add_row(row["tier"], row["variant"], share, *numbers, bad, out)
    return table


def _fail(error: Exception) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(1) from None
