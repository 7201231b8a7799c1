"""Files that a long piece of work ends in, looked at before it begins."""

from __future__ import annotations

from pathlib import Path


class OutputUnusable(Exception):
    """What is to be written at the end cannot be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}")


def check_file(path: Path) -> None:
    """Make sure that the file can be written later; what it holds stays.

    Raises:
        OutputUnusable: names the path and the reason.
    """
    try:
        existed = path.exists()
        # What the system allows is known only by trying.
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise OutputUnusable(path, error.strerror or type(error).__name__) from None


def make_directory(path: Path) -> None:
    """Make the directory if need be, and make sure that it takes new files.

    Raises:
        OutputUnusable: names the path and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnusable(path, error.strerror or type(error).__name__) from None
    check_file(path / ".serve-app-trial")
