"""`serve-app config-docs`: docs/config.md, generated from the config models."""

from __future__ import annotations

import typer

from serve_app.config.docs import render_config_docs


def config_docs() -> None:
    """Print the page on every config key."""
    typer.echo(render_config_docs(), nl=False)
