"""`serve-app down`: stop the service that `serve-app up` started from this checkout."""

from __future__ import annotations

import signal
import time

import psutil
import typer

from serve_app.cli import processes
from serve_app.cli.leftovers import RunDirectory, end_with_files
from serve_app.config.reader import run_dir

GRACE_S = 45.0


def down() -> None:
    """Stop the service and every process that it started."""
    directory = RunDirectory(run_dir())
    before = directory.find_processes()
    if not before:
        _remove_files(directory)
        typer.echo("No service is running.")
        return
    for process in before:
        parent = processes.supervisor(process)
        if parent is not None:
            parent.send_signal(signal.SIGTERM)
            psutil.wait_procs([parent], timeout=GRACE_S)
            break
    deadline = time.monotonic() + GRACE_S
    while (left := directory.find_processes()) and time.monotonic() < deadline:
        end_with_files(left)
    if not left:
        _remove_files(directory)
    typer.echo("Stopped." if not left else f"Still running: {[process.pid for process in left]}")
    raise typer.Exit(1 if left else 0)


def _remove_files(directory: RunDirectory) -> None:
    """Remove what a service that was killed has left, unless another one has just begun."""
    if directory.path.exists() and directory.lock():
        directory.end_leftovers()
