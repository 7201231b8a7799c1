"""`serve-app manifests`: the parts of cluster/ that follow from the configs, so that they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.config.load import ConfigError
from serve_app.offline.manifests.files import find_drift, write_manifests


def manifests(
    root: Annotated[Path, typer.Option(help="The project's root, with configs/.")] = Path(),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a file is out of date.")
    ] = False,
) -> None:
    """Write the generated files below cluster/ from configs/local.yaml and configs/prod.yaml."""
    try:
        changed = find_drift(root) if check else write_manifests(root)
    except ConfigError as error:
        typer.echo(f"{root.resolve()}: {error}", err=True)
        raise typer.Exit(2) from None
    for path in changed:
        typer.echo(f"{path}: {'out of date; run serve-app manifests' if check else 'written'}")
    raise typer.Exit(1 if check and changed else 0)
