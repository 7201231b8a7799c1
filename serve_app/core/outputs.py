"""Checks, before a long piece of work begins, that its output files can be written."""

from __future__ import annotations

from pathlib import Path


class OutputUnusable(Exception):
    """An output file or directory cannot be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}")


def check_file(path: Path) -> None:
    """Make sure that the file can be written later; its content stays.

    Raises:
        OutputUnusable: names the path and the reason.
    """
    try:
        existed = path.exists()
        # Only trying shows whether the system allows it.
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise OutputUnusable(path, error.strerror or type(error).__name__) from None


def make_directory(path: Path) -> None:
    """Make the directory if it is missing, and make sure that it takes new files.

    Raises:
        OutputUnusable: names the path and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnusable(path, error.strerror or type(error).__name__) from None
    check_file(path / ".serve-app-trial")
