"""`serve-app check`: report errors of a config before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from serve_app import demo
from serve_app.config.engine_arguments import check_accelerator_type, check_engine_arguments
from serve_app.config.reader import (
    ConfigError,
    ServeConfig,
    process_environment,
    read_serve_config,
)
from serve_app.config.serve_file import ServeFile
from serve_app.config.tiers import DEMO_PREFIX
from serve_app.demo import CheckpointMissing
from serve_app.model_files.finding import Finding
from serve_app.offline.checkpoints.checkout import check_revision
from serve_app.offline.doctor.tls import find_missing_tls
from serve_app.offline.planning.checks import check_name
from serve_app.offline.planning.plan import Options, make_plan
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.queues import plan_queues
from serve_app.offline.planning.resolve import check_directory
from serve_app.routing.choice import build_scorer
from serve_app.routing.weights import WeightsRefused

CACHED_TOKENS_KEY = "enable_prompt_tokens_details"
"""The engine argument with which vLLM's usage says how much of a prompt was cached."""


def check(
    config: Annotated[
        Path, typer.Argument(help="A Serve config file, for example configs/prod.yaml.")
    ],
) -> None:
    """Validate a config: every key, and every engine argument against the pinned vLLM."""
    serve_config = read_or_exit(config)
    check_engines(config, serve_config)
    check_accelerator_types(config, serve_config)
    check_directories(config, serve_config)
    found = (
        *find_long_queues(serve_config),
        *find_loose_models(serve_config),
        *find_open_doors(serve_config),
        *find_plain_ports(serve_config),
        *find_unseen_prices(serve_config),
    )
    for finding in found:
        typer.echo(str(finding), err=True)
    names = ", ".join(tier.name for tier in serve_config.app.tiers)
    typer.echo(f"{config}: valid; tiers: {names}")


def check_engines(path: Path, config: ServeConfig) -> None:
    """Check every tier's engine arguments; an error is one clear message and exit code 2.

    The check reads the schema of the pinned vLLM, so that a machine that only plans needs no vLLM.
    """
    with _exit_code_2(path):
        for tier in config.app.deployed:
            check_engine_arguments(tier.name, tier.engine)


def check_accelerator_types(path: Path, config: ServeConfig) -> None:
    """Check every tier's name of a GPU; an error is one clear message and exit code 2."""
    with _exit_code_2(path):
        for tier in config.app.deployed:
            name = tier.accelerator_type
            if name is not None:
                check_accelerator_type(tier.name, name)
            for finding in check_name(f"tiers.{tier.name}", name, given=True):
                typer.echo(finding, err=True)


def check_directories(path: Path, config: ServeConfig) -> None:
    """Check every model directory that is here; an error is one clear message and exit code 2."""
    with _exit_code_2(path):
        for tier in config.app.deployed:
            check_directory(tier)


@contextmanager
def _exit_code_2(path: Path) -> Iterator[None]:
    """Print an error of a config as one message with the file's path, and exit with code 2."""
    try:
        yield
    except (ValueError, PlanningFailed) as error:
        typer.echo(f"{path}: {error}", err=True)
        raise typer.Exit(2) from None


def find_long_queues(config: ServeConfig) -> list[Finding]:
    """Find queues that cannot be served in time, if the config can be planned."""
    try:
        made = make_plan(config.app.deployed, Options())
    except PlanningFailed:
        return []
    queues = plan_queues(config, made.rates, made.load)
    return [finding for queue in queues for finding in queue.check()]


def find_loose_models(config: ServeConfig) -> Iterator[Finding]:
    """Find tiers whose engines may start with other files than the files that were tested."""
    for tier in config.app.deployed:
        local = tier.source.startswith(("/", DEMO_PREFIX)) or "://" in tier.source
        if not local:
            where = f"tiers.{tier.name}.engine.revision"
            yield from check_revision(where, tier.source, tier.engine.get("revision"))


def find_open_doors(config: ServeConfig) -> Iterator[Finding]:
    """Find what lets in more clients than the operator may think."""
    access = config.runtime.access
    if config.loopback:
        return
    if access is None:
        what = "the address is public, and whoever reaches the port may call"
        mend = "set access in the Router's user_config (docs/access.md), or listen on 127.0.0.1"
        yield Finding("http_options.host", what, mend, fatal=False)
    elif access.addresses.restricts and access.addresses.trusts_loopback_only:
        what = "only 127.0.0.0/8 and ::1 are trusted: calls that HAProxy passes on from another "
        what += "address of a node seem to come from that node"
        mend = "add the addresses of the nodes and of load balancers"
        yield Finding("access.addresses.trusted_proxies", what, mend, fatal=False)


def find_unseen_prices(config: ServeConfig) -> Iterator[Finding]:
    """Find prices that never apply, and tiers without a price beside tiers that have one."""
    prices = config.runtime.prices
    if prices is None:
        return
    for tier in config.app.deployed:
        own = [prices.tiers.get(tier.name), *(prices.models.get(name) for name in tier.model_ids)]
        given = [price for price in own if price is not None]
        if not given:
            yield Finding(
                f"prices.tiers.{tier.name}",
                "the tier has no price, so its calls cost nothing",
                "give it a price, or prices of 0",
                fatal=False,
            )
        cached = any(price.cached_input is not None for price in given)
        if cached and not tier.engine.get(CACHED_TOKENS_KEY):
            yield Finding(
                f"prices.tiers.{tier.name}.cached_input",
                "the engine does not report cached tokens for chat, completions and messages, so "
                "they cost the price of `input` there",
                f"set `{CACHED_TOKENS_KEY}: true` in `tiers.{tier.name}.engine`",
                fatal=False,
            )


def find_plain_ports(config: ServeConfig) -> Iterator[Finding]:
    """Find a public port that prompts and keys pass in plain text."""
    http = ServeFile.model_validate(config.document).http_options
    missing = find_missing_tls(http, http.other_keys, process_environment())
    if missing is not None:
        yield missing


def read_or_exit(path: Path) -> ServeConfig:
    """Read the config and find its files; an error is one clear message and exit code 2."""
    try:
        config = read_serve_config(path)
        build_scorer(config.runtime.routing, config.app.tiers)
        _find_demo_models(config)
    except ConfigError as error:
        typer.echo(f"{path}: {error}", err=True)
    except CheckpointMissing as error:
        typer.echo(f"{path}: tiers[].model_source: {error}", err=True)
    except WeightsRefused as error:
        typer.echo(f"{path}: Router.user_config: routing.weights: {error}", err=True)
    else:
        return config
    raise typer.Exit(2)


def _find_demo_models(config: ServeConfig) -> None:
    for tier in config.app.deployed:
        if tier.source.startswith(DEMO_PREFIX):
            demo.locate(tier.source.removeprefix(DEMO_PREFIX))
