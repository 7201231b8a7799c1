"""Keep the measurements, however the run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from serve_app import demo
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import print_report, write_json
from serve_app.offline.bench.machine import Machine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_WIDTH = 180
Result = TypeVar("Result", bound="DataclassInstance")


def collect(
    runs: Iterable[Result],
    build: Callable[[Sequence[Result]], Sequence[Grid]],
    machine: Machine,
    json: Path | None,
) -> tuple[list[Result], Exception | None]:
    """Every result until the end, or until the failure that comes with the results.

    However the run ends, interrupted too, its results are printed and in the JSON file.
    """
    results: list[Result] = []
    try:
        for result in runs:
            results.append(result)
            # After each result, because no `finally` runs in a process that is killed.
            if json is not None:
                write_json(json, machine, results)
    except (BenchFailed, demo.CheckpointMissing) as error:
        return results, error
    finally:
        if json is not None:
            write_json(json, machine, results)
        if results:
            print_report(build_console(), machine, build(results))
    return results, None


def build_console() -> Console:
    """A terminal that is wide enough for the tables."""
    return Console(width=max(_WIDTH, Console().width))
