"""Checks of command-line options, made before anything starts."""

from __future__ import annotations

from pathlib import Path

import typer

from serve_app.core.outputs import OutputUnusable, check_file, make_directory


def check_outputs(*files: Path | None, directory: Path | None = None) -> None:
    """Reject the command if the files that it writes at its end cannot be written."""
    try:
        for path in files:
            if path is not None:
                check_file(path)
        if directory is not None:
            make_directory(directory)
    except OutputUnusable as error:
        raise typer.BadParameter(str(error)) from None


def parse_counts(text: str) -> list[int]:
    """Numbers of at least 1, separated by commas."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of numbers") from error
    if min(counts) < 1:
        raise typer.BadParameter("every number must be at least 1")
    return counts
