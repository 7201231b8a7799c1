"""`serve-app drain-node`: let the streams on this Ray node finish before the node stops."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import psutil
import typer

POLL_S = 2.0
REASON = "DRAIN_NODE_REASON_PREEMPTION"
"""Ray rejects the other reason, "idle", for a node that has work."""
ACTORS = ("ray::ServeReplica:", "ray::HAProxyManager", "ray::ProxyActor")
"""The titles of the processes on a node that carry calls: Serve's replicas, and the proxies.

A proxy also carries streams of Routers on other nodes. On a draining node, Ray ends each process
when its last call has ended.
"""
HAPROXY = "haproxy"
NODE_ID = "--node_id="
"""The option in the command line of a raylet."""

Commands = Callable[[], Iterable[list[str]]]


def drain_node(
    wait_s: Annotated[
        float,
        typer.Option(
            min=0,
            max=86_400,
            help="How long to wait: the time of a start plus the longest drain_timeout_s.",
        ),
    ] = 2400.0,
) -> None:
    """Ask Ray to move this node's replicas elsewhere, and wait until they and its proxy have ended.

    For a pod's preStop hook or a unit's ExecStop. Exit code 0: no replica or proxy runs here any
    more. 1: a replica or proxy still runs, or Ray rejects the request.
    """
    node = find_node_id(running_commands())
    if node is None:
        typer.echo("No raylet runs here: there is nothing to drain.")
        return
    # No deadline: Serve would stop each replica a drain_timeout_s before the deadline, even if its
    # replacement does not run yet.
    command = _ray(
        "drain-node",
        f"--node-id={node}",
        f"--reason={REASON}",
        "--reason-message=the node is about to stop",
    )
    if subprocess.run(command, check=False).returncode != 0:
        typer.echo("Ray rejected the request to drain this node; see above.", err=True)
        raise typer.Exit(1)
    if not wait_until_idle(running_commands, wait_s):
        typer.echo(f"Replicas or a proxy still run here after {wait_s:g} s.", err=True)
        raise typer.Exit(1)


def find_node_id(commands: Iterable[list[str]]) -> str | None:
    """The id of this machine's Ray node, from the command line of its raylet."""
    for command in commands:
        if command and Path(command[0]).name == "raylet":
            for argument in command:
                if argument.startswith(NODE_ID):
                    return argument.removeprefix(NODE_ID)
    return None


def wait_until_idle(commands: Commands, wait_s: float, poll_s: float = POLL_S) -> bool:
    """Whether the last replica and the proxy ended within `wait_s`."""
    deadline = time.monotonic() + wait_s
    while any(map(_carries_calls, commands())):
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def _carries_calls(command: list[str]) -> bool:
    return bool(command) and (
        command[0].startswith(ACTORS) or Path(command[0]).name.startswith(HAPROXY)
    )


def running_commands() -> list[list[str]]:
    """The command line of every process that this user may see."""
    found = (process.info["cmdline"] for process in psutil.process_iter(["cmdline"]))
    return [command for command in found if command]


def _ray(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ray")), *arguments]
