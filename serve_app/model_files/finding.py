"""A fault that a check found: where, what, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

TEXT_MAX = 500


@dataclass(frozen=True)
class Finding:
    """One fault. If it is `fatal`, the model must not be served in its present state."""

    where: str
    what: str
    mend: str
    fatal: bool = True

    def __str__(self) -> str:
        level = "error" if self.fatal else "warning"
        return f"{level}: {printable(f'{self.where}: {self.what}')}\n  mend: {printable(self.mend)}"


def printable(text: str) -> str:
    """Names and texts from untrusted files, made safe for a terminal and a log."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return shown if len(shown) <= TEXT_MAX else shown[: TEXT_MAX - 3] + "..."
