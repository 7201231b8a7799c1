"""`serve-app manifests`: generate the files of cluster/ from the configs, so that they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.config.reader import ConfigError
from serve_app.offline.manifests.files import find_drift, write_folder, write_manifests


def manifests(
    config: Annotated[
        Path | None, typer.Argument(help="A config; its files are written below --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the files of CONFIG.")] = None,
    root: Annotated[Path, typer.Option(help="The project's root, which holds configs/.")] = Path(),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a file is out of date.")
    ] = False,
) -> None:
    """Write the files that are generated from a config, for Kubernetes and for systemd machines.

    Without CONFIG: the generated files below cluster/, from configs/local.yaml, prod.yaml and
    prod-ha.yaml.
    """
    if (config is None) != (out is None) or (config and check):
        typer.echo("CONFIG and --out need each other, and exclude --check", err=True)
        raise typer.Exit(2)
    try:
        changed = _work(config, out, root, check)
    except ConfigError as error:
        typer.echo(f"{(config or root).resolve()}: {error}", err=True)
        raise typer.Exit(2) from None
    for path in changed:
        typer.echo(f"{path}: {'out of date; run serve-app manifests' if check else 'written'}")
    raise typer.Exit(1 if check and changed else 0)


def _work(config: Path | None, out: Path | None, root: Path, check: bool) -> list[Path]:
    if config is not None and out is not None:
        return write_folder(config, root, out)
    return find_drift(root) if check else write_manifests(root)
