"""`serve-app env`: the environment of every Ray process, for a shell or a unit file."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from serve_app.config.environment import ray_environment


def environment(
    haproxy: Annotated[bool, typer.Option(help="Let HAProxy listen on the public port.")] = True,
) -> None:
    """Print the environment for `ray start` and `serve run`: eval "$(serve-app env)"."""
    for name, value in ray_environment(haproxy=haproxy).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
