"""The endpoint that a command asks: its address, and the key from the environment."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import typer

from serve_app.config.reader import process_environment


def parse_address(base_url: str, option: str = "--base-url") -> str:
    """The base URL of an endpoint, without a slash at its end.

    Raises:
        typer.BadParameter: it is not an http address.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise typer.BadParameter(f"'{base_url}' is not an http address", param_hint=option)
    return base_url.rstrip("/")


def build_headers(api_key_env: str | None) -> Mapping[str, str]:
    """The header with the key of this environment variable, if one is named.

    Raises:
        typer.BadParameter: the variable is not set.
    """
    if api_key_env is None:
        return {}
    key = process_environment().get(api_key_env)
    if not key:
        raise typer.BadParameter(
            f"the environment has no {api_key_env}", param_hint="--api-key-env"
        )
    return {"authorization": f"Bearer {key}"}
