"""The result of a check of a machine: its level, why it matters, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The level of a result. Only an error keeps the service from working."""

    OK = "ok"
    NOTE = "note"
    """The check was not possible, or is not needed."""
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `why` and `mend` are empty if nothing is wrong."""

    level: Level
    check: str
    what: str
    why: str = ""
    mend: str = ""


def ok(check: str, what: str) -> CheckResult:
    """A result without a problem."""
    return CheckResult(Level.OK, check, what)


def note(check: str, what: str) -> CheckResult:
    """A check that was not made, and the reason."""
    return CheckResult(Level.NOTE, check, what)
