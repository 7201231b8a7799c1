"""`serve-app bench scaling`: the llm policy compared with Ray's own, in a simulation."""

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
    quick: Annotated[
        bool, typer.Option("--quick", help="Run one seed only, for a quick result.")
    ] = False,
    tuning: Annotated[
        bool,
        typer.Option("--tune", help="Search the policies' settings again; takes many minutes."),
    ] = False,
    pictures: Annotated[Path | None, typer.Option(help="Directory for the pictures (PNG).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for the tables.")] = None,
) -> None:
    """Simulate both tiers under five traces: missed calls, GPU-hours, changes of direction."""
    check_outputs(markdown, directory=pictures)
    # Imported here, because Ray takes seconds to import.
    from serve_app.offline.bench.scaling_report import compare_all, tune_all

    grids = list(tune_all()) if tuning else compare_all(quick=quick, pictures=pictures)
    print_report(Console(width=max(_WIDTH, Console().width)), describe_machine(), grids)
    if markdown is not None:
        markdown.write_text("\n".join(render_grid(grid) for grid in grids), encoding="utf-8")
