"""`serve-app bench scaling`: the llm policy beside Ray's own, in a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.offline.bench.journal import print_report, render_grid
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs

_WIDTH = 150


def scaling(
    quick: Annotated[bool, typer.Option("--quick", help="One seed; for a look.")] = False,
    tuning: Annotated[
        bool, typer.Option("--tune", help="Find the policies' settings again; many minutes.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="A directory for the pictures (PNG).")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="A file for the tables.")] = None,
) -> None:
    """Simulate both tiers under five traces: missed calls, GPU-hours, changes of direction."""
    check_outputs(markdown, directory=pictures)
    # Imports Ray, for which no other command should wait.
    from serve_app.offline.bench.scaling_report import compare_all, tune_all

    grids = list(tune_all()) if tuning else compare_all(quick=quick, pictures=pictures)
    print_report(Console(width=max(_WIDTH, Console().width)), describe_machine(), grids)
    if markdown is not None:
        markdown.write_text("\n".join(render_grid(grid) for grid in grids), encoding="utf-8")
