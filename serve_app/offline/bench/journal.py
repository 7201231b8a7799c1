"""Puts a report on the terminal, into the log of measurements, and into a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.machine import Machine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS


def print_report(console: Console, machine: Machine, grids: Sequence[Grid]) -> None:
    """Prints every table."""
    for line in machine.lines:
        console.print(line, highlight=False)
    for grid in grids:
        table = Table(*grid.header[:1], title=grid.title, title_justify="left", box=box.SIMPLE)
        for name in grid.header[1:]:
            table.add_column(name, justify="right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)


def render_section(
    machine: Machine, command: str, grids: Sequence[Grid], notes: Sequence[str] = ()
) -> str:
    """One dated section of the log, in Markdown."""
    lines = (*machine.lines, *notes)
    head = [f"## {machine.at}: `{command}`", "", *(f"- {line}" for line in lines), ""]
    return "\n".join(head) + "\n" + "\n".join(render_grid(grid) for grid in grids)


def render_grid(grid: Grid) -> str:
    """One table in Markdown, numbers to the right."""
    rule = ["---", *["---:"] * (len(grid.header) - 1)]
    lines = [_row(grid.header), _row(rule), *(_row(row) for row in grid.rows)]
    return f"**{grid.title}**\n\n" + "\n".join(lines) + "\n"


def append_section(log: Path, section: str) -> None:
    """Adds a section at the end of the log; a log that is not there yet begins with it."""
    text = log.read_text(encoding="utf-8").rstrip() if log.exists() else ""
    log.write_text(f"{text}\n\n{section}" if text else section, encoding="utf-8")


def write_json(path: Path, machine: Machine, measurements: Sequence[DataclassInstance]) -> None:
    """Writes everything that was measured."""
    document = {"machine": asdict(machine), "measurements": [asdict(run) for run in measurements]}
    path.write_bytes(orjson.dumps(document, option=_JSON))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
