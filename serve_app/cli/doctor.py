"""`serve-app doctor`: check this machine and its cluster against a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer

from serve_app import demo
from serve_app.cli.check import (
    check_accelerator_types,
    check_engines,
    find_unseen_prices,
    read_or_exit,
)
from serve_app.config.environment import ray_environment
from serve_app.config.reader import ServeConfig, process_environment
from serve_app.config.serve_file import ROUTER_NAME, ServeFile
from serve_app.config.tls import select_tls
from serve_app.offline.doctor.encryption import check_encryption, list_directories
from serve_app.offline.doctor.engines import check_engines_here, find_engine_errors
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok
from serve_app.offline.doctor.machine import (
    PINS,
    check_environment,
    check_limits,
    check_ports,
    check_shared_memory,
    check_token,
    check_versions,
    list_ports,
)
from serve_app.offline.doctor.models import check_model_of
from serve_app.offline.doctor.tls import check_tls

CLOCK_S_MAX = 1.0
"""Tokens and certificates have times, and operators compare the logs of several nodes."""

_MARKS = {
    Level.OK: "ok     ",
    Level.NOTE: "note   ",
    Level.WARNING: "WARNING",
    Level.ERROR: "ERROR  ",
}


def doctor(
    config: Annotated[
        Path, typer.Argument(help="A Serve config file, for example configs/prod.yaml.")
    ],
    address: Annotated[
        str | None,
        typer.Option(help="Check the whole cluster as well: `auto`, or the cluster's GCS address."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 on warnings as well.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Report what stops a config from running well here, why it matters, and how to mend it.

    Exit code 0: no errors. 1: errors (with --strict, also warnings). 2: the config itself is wrong.
    """
    serve_config = read_or_exit(config)
    check_engines(config, serve_config)
    check_accelerator_types(config, serve_config)
    findings = list(_look_here(serve_config))
    if address is not None:
        findings += _look_at_cluster(serve_config, address)
    if json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        typer.echo(orjson.dumps([asdict(found) for found in findings], option=options), nl=False)
    else:
        typer.echo("\n".join(line for found in findings for line in _render(found)))
    levels = Counter(found.level for found in findings)
    if not json:
        typer.echo(f"\n{levels[Level.ERROR]} errors, {levels[Level.WARNING]} warnings")
    bad = levels[Level.ERROR] + (levels[Level.WARNING] if strict else 0)
    raise typer.Exit(1 if bad else 0)


def _render(found: CheckResult) -> Iterator[str]:
    yield f"{_MARKS[found.level]} {found.check}: {found.what}"
    if found.why:
        yield f"          why:  {found.why}"
    if found.mend:
        yield f"          mend: {found.mend}"


def _look_here(config: ServeConfig) -> Iterator[CheckResult]:
    environment = process_environment()
    tiers = config.app.deployed
    gpu = any(tier.accelerator == "gpu" for tier in tiers)
    yield from check_versions("gpu" if gpu else "cpu")
    yield check_limits()
    yield check_shared_memory()
    yield from check_environment(environment, ray_environment())
    yield check_token(environment, Path.home())
    http = ServeFile.model_validate(config.document).http_options
    yield from check_ports(list_ports(http.port, environment), http.host)
    yield from check_tls(http, environment)
    yield from check_encryption(list_directories(config, environment, Path.home()))
    yield from check_engines_here(tiers, {**environment, **ray_environment()})
    for tier in tiers:
        yield from check_model_of(tier, demo.locate)
    for unseen in find_unseen_prices(config):
        why = "Amounts of money in limits, metrics and the audit log are not what the prices say."
        yield CheckResult(Level.WARNING, unseen.where, unseen.what, why, unseen.mend)


def _look_at_cluster(config: ServeConfig, address: str) -> Iterator[CheckResult]:
    # Imported here, because Ray takes seconds to import and most checks do not need it.
    from serve_app.deploy.cluster_facts import ClusterUnreachable, connected

    try:
        with connected(address):
            yield from _check_cluster(config)
    except ClusterUnreachable as error:
        yield CheckResult(
            Level.ERROR,
            "cluster",
            f"no cluster at {address}: {error}",
            "No replica can be placed.",
            "Start Ray (docs/deploy.md); export RAY_AUTH_MODE=token if it asks for a token.",
        )


def _check_cluster(config: ServeConfig) -> Iterator[CheckResult]:
    from serve_app.deploy.cluster_facts import gather_facts
    from serve_app.deploy.cluster_nodes import count_placed, read_groups, read_rooms
    from serve_app.deploy.fit import Need
    from serve_app.deploy.fleet import fit_all
    from serve_app.deploy.plan import deployment_name, plan_need

    gpu = any(tier.accelerator == "gpu" for tier in config.app.deployed)
    # A node on which TLS is forgotten would serve its public port in plain text.
    wanted = {**ray_environment(), **select_tls(process_environment())}
    probe = partial(find_engine_errors, config.app.deployed)
    facts = gather_facts(list(PINS["gpu" if gpu else "cpu"]), list(wanted), probe)
    for node in facts:
        if node.versions is None or node.environment is None:
            yield CheckResult(
                Level.ERROR,
                f"node {node.address}",
                "the node does not answer",
                "Replicas that are placed there do not start.",
                "Read the log of the node's raylet.",
            )
            continue
        for found in (*check_environment(node.environment, wanted), *(node.found or ())):
            yield CheckResult(
                found.level, f"node {node.address}", found.what, found.why, found.mend
            )
        if abs(node.ahead_s) > CLOCK_S_MAX:
            yield CheckResult(
                Level.WARNING,
                f"node {node.address}",
                f"its clock differs by {node.ahead_s:+.1f} s from this machine's clock",
                "The clock decides whether tokens and certificates are valid, and the logs of two "
                "nodes cannot be compared.",
                "Run chrony or systemd-timesyncd on every node.",
            )
    kinds = {(node.python, *sorted((node.versions or {}).items())) for node in facts}
    if len(kinds) > 1:
        yield CheckResult(
            Level.ERROR,
            "nodes",
            "; ".join(sorted(str(kind) for kind in kinds)),
            "Ray needs the same Python and the same packages on every node.",
            "Install the same environment on every node.",
        )
    else:
        yield ok("nodes", f"{len(facts)} nodes have the same Python and packages")
    groups = read_groups()
    needs = []
    for tier in config.app.deployed:
        missing = tier.replicas.min - count_placed(groups, deployment_name(tier))
        needs.append((tier.name, plan_need(tier), max(0, missing)))
    # Routers are in no placement group: the resources of running Routers count as free.
    router = config.app.router
    needs.append((ROUTER_NAME, Need(({"CPU": router.cpus},), "PACK", {}), router.replicas.min))
    lacking = fit_all(needs, read_rooms(groups))
    for name, _, count in needs:
        if name in lacking:
            yield CheckResult(
                Level.ERROR,
                f"placement of {name}",
                lacking[name],
                "The missing replicas wait until nodes have room for them.",
                "Add nodes, or free some; `serve-app plan` shows which resources the config needs.",
            )
        elif count:
            yield ok(f"placement of {name}", f"there is room for {count} of its replicas.min")
        else:
            yield note(f"placement of {name}", "all of its replicas.min are placed")
