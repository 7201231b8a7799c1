"""The log of a service that was started by hand, and the lines that tell of a failure."""

from __future__ import annotations

import re
from pathlib import Path

NAME = "serve.log"
LINES_MAX = 15
READ_BYTES_MAX = 256 * 1024

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CALM = re.compile(r"\b(?:INFO|DEBUG|WARNING|SUCC)\b")
_SOURCE = re.compile(r"^\((?P<source>[A-Za-z][\w:.-]*)[^)]*\)\s*")


def begin_log(run_dir: Path) -> Path:
    """The file for the output of a new start; the output of the last start stays beside it."""
    path = run_dir / NAME
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
    return path


def read_end(path: Path) -> str:
    """The end of a log; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - READ_BYTES_MAX))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def find_trouble(text: str) -> list[str]:
    """The last lines that are no routine, without colours; otherwise the last lines."""
    lines = [line.rstrip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    trouble = [line for line in lines if not _is_calm(line)]
    return (trouble or lines)[-LINES_MAX:]


def _is_calm(line: str) -> bool:
    return _CALM.search(_SOURCE.sub("", line)[:80]) is not None
