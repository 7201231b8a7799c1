"""What a look at a machine found: how bad, why it matters, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. Only an error keeps the service from working."""

    OK = "ok"
    NOTE = "note"
    """Could not be looked at, or need not be."""
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at. `why` and `mend` are empty where nothing is wrong."""

    level: Level
    check: str
    what: str
    why: str = ""
    mend: str = ""


def ok(check: str, what: str) -> CheckResult:
    """Nothing is wrong."""
    return CheckResult(Level.OK, check, what)


def note(check: str, what: str) -> CheckResult:
    """Not looked at, and why."""
    return CheckResult(Level.NOTE, check, what)
