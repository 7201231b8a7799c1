"""`serve-app reload`: give the running Routers the `user_config` of a file, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from serve_app.cli.check import read_or_exit
from serve_app.config.dashboard import DASHBOARD
from serve_app.config.reader import IMPORT_PATH, ServeConfig
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.live import (
    ChangeRefused,
    Document,
    LiveService,
    ServiceNotFound,
    ask_routers,
    open_cluster,
    open_live,
    read_user_config,
)

DashboardOption = Annotated[str, typer.Option(help="The address of Ray's dashboard.")]
ClusterOption = Annotated[
    str, typer.Option(help="The address of Ray's head (host:port). auto: the cluster of this node.")
]
WaitOption = Annotated[
    float, typer.Option(min=1, max=3600, help="Seconds until every Router must have the config.")
]
NOTHING = "(not set)"
VALUE_CHARACTERS_MAX = 120


def reload(
    config: Annotated[Path, typer.Argument(help="The Serve config file of the running service.")],
    dashboard: DashboardOption = DASHBOARD,
    cluster: ClusterOption = "auto",
    wait_s: WaitOption = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference and change nothing.")
    ] = False,
) -> None:
    """Give the running Routers the `user_config` of a file, once all of it has been checked.

    Calls in flight keep the config that they began with. A file that would restart deployments is
    refused: `serve deploy FILE` does that. Exit code 0: every Router has the config.
    """
    serve_config = read_or_exit(config)
    try:
        with open_live(dashboard) as live:
            if apply_config(live, serve_config, wait_s=wait_s, dry_run=dry_run):
                confirm_config(serve_config, cluster)
    except (ServiceNotFound, ChangeRefused) as error:
        _refuse(str(error))


def apply_config(
    live: LiveService, config: ServeConfig, *, wait_s: float, dry_run: bool = False
) -> bool:
    """Show what a file changes, and give the Routers its `user_config`; whether they got one.

    Raises:
        ServiceNotFound: nothing runs there.
        ChangeRefused: the file would restart deployments, or Serve did not take the config.
    """
    application = live.find()
    written = find_written(config.document)
    if restarts := list(find_restarts(application["deployed_app_config"], written)):
        raise ChangeRefused(
            f"{', '.join(restarts)} differs from what runs, which restarts deployments; "
            "`serve deploy FILE` does that"
        )
    wanted = read_user_config({"deployed_app_config": written})
    changes = list(find_changes(read_user_config(application), wanted))
    if not changes:
        typer.echo("The Routers have this config already.")
        return False
    for change in changes:
        typer.echo(change)
    if not dry_run:
        live.configure(wanted, wait_s=wait_s)
    return not dry_run


def confirm_config(config: ServeConfig, cluster: str) -> None:
    """Check that every Router has taken the `user_config` of a file.

    Raises:
        ServiceNotFound: the Routers cannot be asked from here.
        ChangeRefused: a Router has refused it.
    """
    written = find_written(config.document)
    wanted = read_user_config({"deployed_app_config": written})
    with open_cluster(cluster):
        answers = ask_routers(written["name"], "read_user_config")
    count = len(answers)
    if refused := sum(answer != wanted for answer in answers):
        raise ChangeRefused(
            f"{refused} of {count} Routers refused it and keep their old config; "
            'their logs say why: serve-app logs --grep "user_config refused"'
        )
    typer.echo(f"{count} Router{'s have' if count != 1 else ' has'} it.")


def find_written(document: Document) -> Document:
    """The application as the file has it."""
    applications = document["applications"]
    return next(dict(one) for one in applications if one["import_path"] == IMPORT_PATH)


def find_restarts(deployed: Mapping[str, Any], written: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a file that differ from what is deployed, apart from the `user_config`."""
    for key in ("name", "route_prefix", "args", "autoscaling_policy"):
        if deployed.get(key) != written.get(key):
            yield key
    ours, theirs = (_without_user_config(one) for one in (written, deployed))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name, {}) != theirs.get(name, {}):
            yield f"deployments.{name}"


def _without_user_config(application: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the deployments by name; an option that is null is not set."""
    found = {}
    for deployment in application.get("deployments") or ():
        kept = {
            key: value
            for key, value in deployment.items()
            if value is not None and (deployment["name"], key) != (ROUTER_NAME, "user_config")
        }
        if kept.keys() - {"name"}:
            found[deployment["name"]] = kept
    return found


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """One line for each key whose value differs."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    for key in sorted(before.keys() | after.keys()):
        was, becomes = before.get(key, NOTHING), after.get(key, NOTHING)
        if was != becomes:
            yield f"{key}: {_short(was)} -> {_short(becomes)}"


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _short(value: object) -> str:
    text = str(value)
    kept = text[:VALUE_CHARACTERS_MAX]
    return kept if kept == text else f"{kept}..."


def _refuse(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(1)
