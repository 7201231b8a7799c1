"""`serve-app convert`: safetensors and sums from a local checkpoint, pickled or not."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from serve_app.cli.verify import render_report, terminal_progress
from serve_app.model_files.finding import printable
from serve_app.offline.checkpoints.convert import ConversionFailed, convert_checkpoint


def convert(
    source: Annotated[Path, typer.Argument(help="A local directory in Hugging Face's layout.")],
    dest: Annotated[Path, typer.Argument(help="A directory that does not exist or is empty.")],
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        typer.Option(help="Type of the weights; auto keeps the type of SOURCE."),
    ] = "auto",
) -> None:
    """Convert a checkpoint to safetensors, with tokenizer, template and SHA256SUMS.

    The whole model must fit in memory. No code from the model is run; nothing is downloaded.
    """
    if not source.is_dir():
        typer.echo(f"{source}: not a directory", err=True)
        raise typer.Exit(2)
    signal.signal(signal.SIGTERM, _stop)
    try:
        report = convert_checkpoint(source, dest, dtype, terminal_progress())
    except (ConversionFailed, OSError) as error:
        typer.echo("Nothing was written.", err=True)
        typer.echo("\n".join(map(printable, str(error).splitlines())), err=True)
        raise typer.Exit(1) from None
    typer.echo(render_report(report))


def _stop(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does, so that half-written files are removed."""
    raise KeyboardInterrupt
