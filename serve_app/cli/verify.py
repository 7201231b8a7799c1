"""`serve-app verify`: check that a model directory is complete and safe to serve."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from serve_app.model_files.finding import printable
from serve_app.model_files.hashing import Progress, no_progress
from serve_app.model_files.integrity import make_sums
from serve_app.model_files.sums import SUMS_NAME, BadSums, read_sums, write_sums
from serve_app.offline.checkpoints.check import Report, check_model, count


def verify(
    model_dir: Annotated[
        Path, typer.Argument(help="A model's directory, which holds config.json.")
    ],
    sums: Annotated[
        Path | None,
        typer.Option(help="Check against this list, in place of the list in the directory."),
    ] = None,
    new_sums: Annotated[
        bool, typer.Option("--write-sums", help="Write SHA256SUMS if no problem is found.")
    ] = False,
    allow_remote_code: Annotated[
        bool,
        typer.Option("--allow-remote-code", help="Accept Python code that comes with the model."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a model: sums, safetensors, config, tokenizer, template; no pickles.

    Exit code 0: no problem found. 1: a problem found. 2: the model could not be checked.
    """
    given = _read_given(model_dir, sums, new_sums)
    progress = terminal_progress()
    report = check_model(model_dir, given, allow_remote_code=allow_remote_code, progress=progress)
    if new_sums and report.ok:
        report.checked["sums"] = _write_new(model_dir, progress)
    typer.echo(_render_json(report) if as_json else render_report(report))
    raise typer.Exit(0 if report.ok else 1)


def _read_given(model_dir: Path, sums: Path | None, new_sums: bool) -> dict[str, str] | None:
    """The list of --sums, or None; exit code 2 if the options contradict each other."""
    if not model_dir.is_dir():
        _give_up(f"{model_dir}: not a directory")
    if new_sums and sums is not None:
        _give_up("use either --sums or --write-sums")
    if new_sums and (model_dir / SUMS_NAME).exists():
        _give_up(
            f"{model_dir / SUMS_NAME} exists already; to write a new list, remove the file first"
        )
    try:
        return None if sums is None else read_sums(sums)
    except BadSums as error:
        _give_up(f"{sums}: {error}")


def _write_new(model_dir: Path, progress: Progress) -> str:
    try:
        sums = make_sums(model_dir, progress)
        path = write_sums(model_dir, sums)
    except OSError as error:
        _give_up(f"{model_dir}: no {SUMS_NAME} written: {error.strerror}")
    return f"{count(len(sums), 'file')} hashed, written to {path}"


def _give_up(message: str) -> NoReturn:
    typer.echo(printable(message), err=True)
    raise typer.Exit(2)


def render_report(report: Report) -> str:
    """The report as text."""
    lines = [f"{printable(str(report.directory))}: {'good' if report.ok else 'NOT to be served'}"]
    lines += [f"  {name:<9} {printable(text)}" for name, text in report.checked.items()]
    return "\n".join([*lines, *map(str, report.findings)])


def _render_json(report: Report) -> str:
    return json.dumps(
        {
            "directory": str(report.directory),
            "ok": report.ok,
            "checked": report.checked,
            "findings": [dataclasses.asdict(finding) for finding in report.findings],
        },
        indent=2,
    )


def terminal_progress() -> Progress:
    """A line on stderr that updates itself, if stderr is a terminal."""
    if not sys.stderr.isatty():
        return no_progress
    started = time.monotonic()

    def show(done_bytes: int, all_bytes: int) -> None:
        per_s = done_bytes / max(time.monotonic() - started, 1e-3)
        text = f"hashed {done_bytes / 1e9:.1f} of {all_bytes / 1e9:.1f} GB, {per_s / 1e6:,.0f} MB/s"
        end = "\r\033[K" if done_bytes >= all_bytes else ""
        sys.stderr.write(f"\r\033[K{text}{end}")
        sys.stderr.flush()

    return show
