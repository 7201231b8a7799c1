"""`serve-app scale-pool`: change the size of pools of a Ray cluster on Kubernetes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import orjson
import typer

from serve_app.cli.check import read_or_exit
from serve_app.config.scaled import read_scaled
from serve_app.deploy.pools import NodePool, Unplaceable, plan_pods
from serve_app.offline.manifests.render import render_sizes

Size = Annotated[int | None, typer.Option(min=0, max=100_000)]


def scale_pool(
    config: Annotated[Path, typer.Argument(help="The config that is deployed.")],
    pool: Annotated[str | None, typer.Option(help="Only this pool, for example `fast`.")] = None,
    nodes_min: Size = None,
    nodes_max: Size = None,
) -> None:
    """Print a JSON patch for a running RayCluster: the number of pods of each pool.

    KubeRay does not copy changed sizes from the RayService: docs/runbook.md has the command.
    """
    serve_config = read_or_exit(config)
    try:
        pools = plan_pods(read_scaled(serve_config))
        sized = _resize(pools, pool, nodes_min, nodes_max)
    except (Unplaceable, ValueError) as error:
        typer.echo(f"{config}: {error}", err=True)
        raise typer.Exit(2) from None
    operations = [
        operation
        for index, one in enumerate(sized)
        if pool in (None, one.name)
        for operation in render_sizes(index, one)
    ]
    typer.echo(orjson.dumps(operations).decode())


def _resize(
    pools: tuple[NodePool, ...], name: str | None, nodes_min: int | None, nodes_max: int | None
) -> list[NodePool]:
    """The pools, with other numbers for the named pool.

    Raises:
        ValueError: the pool does not exist, or the minimum of pods is above the maximum.
    """
    names = [pool.name for pool in pools]
    if not pools:
        raise ValueError("the config has no pools: every replica runs on the head")
    if name is None and (nodes_min is not None or nodes_max is not None):
        raise ValueError("--nodes-min and --nodes-max need --pool")
    if name is not None and name not in names:
        raise ValueError(f"there is no pool '{name}', only {', '.join(names)}")
    return [_resize_one(p, nodes_min, nodes_max) if p.name == name else p for p in pools]


def _resize_one(pool: NodePool, nodes_min: int | None, nodes_max: int | None) -> NodePool:
    least = pool.nodes_min if nodes_min is None else nodes_min
    most = max(pool.nodes_max, least) if nodes_max is None else nodes_max
    if least > most:
        raise ValueError(f"{pool.name}: the minimum of {least} pods is above the maximum of {most}")
    return replace(pool, nodes_min=least, nodes_max=most)
