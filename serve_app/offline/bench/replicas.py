"""`serve-app bench replicas`: the cost of a call by the number of replicas and Routers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.journal import append_section, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.phase import Phase
from serve_app.offline.bench.replica_report import build_grids
from serve_app.offline.bench.replica_runs import ReplicaPlan, Size, SizeResult, parse_size, run_size
from serve_app.offline.bench.results import collect
from serve_app.offline.bench.targets import HOST, MODEL_ID

_SIZES = "1x1,8x1,32x1,8x8,32x8"
_CLIENTS = 32
_TOKENS = 16
_PACE_MS = 20.0
_WINDOW_S = 10.0
_TERMINATED = 128 + signal.SIGTERM


def replicas(
    sizes: Annotated[
        str,
        typer.Option(
            help="Sizes as REPLICASxROUTERS, separated by commas. A process takes about 150 MiB."
        ),
    ] = _SIZES,
    clients: Annotated[int, typer.Option(min=1, help="Concurrent clients.")] = _CLIENTS,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = _TOKENS,
    pace_ms: Annotated[float, typer.Option(min=0, help="Time between two tokens.")] = _PACE_MS,
    reuse_s: Annotated[
        float | None, typer.Option(min=0, help="`leases.reuse_s`; 0: no lease is reused.")
    ] = None,
    age_max_s: Annotated[float | None, typer.Option(min=0, help="`leases.age_max_s`.")] = None,
    haproxy: Annotated[bool, typer.Option(help="Put HAProxy in front of the Routers.")] = True,
    window_s: Annotated[
        float, typer.Option(min=1, help="Seconds of each measurement.")
    ] = _WINDOW_S,
    json: Annotated[Path | None, typer.Option(help="JSON file for every number.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(help="Lock this file while a service runs, on a shared machine."),
    ] = None,
) -> None:
    """Start the service in several sizes with simulated engines, and compare the sizes.

    Ray, Routers and leases are real; no model is loaded. The same run also measures the engine
    alone.
    """
    # An exception, so that servers end in order and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    wanted = _parse_sizes(sizes)
    check_outputs(json, log, lock)
    leases = {"reuse_s": reuse_s, "age_max_s": age_max_s}
    given = {name: value for name, value in leases.items() if value is not None}
    plan = ReplicaPlan(
        _build_phase(clients, tokens, window_s), pace_ms / 1000, given, haproxy, lock, _say
    )
    machine = describe_machine()
    results, failure = collect(_run_all(wanted, plan), build_grids, machine, json)
    if failure is not None:
        _say(f"The run failed; nothing is written to the log. {failure}")
        raise typer.Exit(1)
    if log is not None:
        command = _render_command(sizes, clients, tokens, pace_ms, given, haproxy=haproxy)
        append_section(log, render_section(machine, command, build_grids(results)))


def _run_all(sizes: Sequence[Size], plan: ReplicaPlan) -> Iterator[SizeResult]:
    with run_load_generator() as generator:
        for size in sizes:
            yield run_size(size, plan, generator)


def _build_phase(clients: int, tokens: int, window_s: float) -> Phase:
    return Phase(
        host=HOST,
        port=0,
        model=MODEL_ID,
        clients=clients,
        stream=True,
        output_tokens=tokens,
        warmup_s=2.0,
        window_s=window_s,
    )


def _parse_sizes(text: str) -> list[Size]:
    try:
        return [parse_size(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _render_command(
    sizes: str,
    clients: int,
    tokens: int,
    pace_ms: float,
    leases: Mapping[str, float],
    *,
    haproxy: bool,
) -> str:
    """The command for the log: the options that change the numbers, not the output files."""
    words = ["serve-app bench replicas", f"--sizes={sizes}"]
    words += [f"--clients={clients}"] if clients != _CLIENTS else []
    words += [f"--tokens={tokens}"] if tokens != _TOKENS else []
    words += [f"--pace-ms={pace_ms:g}"] if pace_ms != _PACE_MS else []
    words += [f"--{name.replace('_', '-')}={value:g}" for name, value in leases.items()]
    words += [] if haproxy else ["--no-haproxy"]
    return " ".join(words)
