"""The GPUs of this machine, read from `nvidia-smi`, which every NVIDIA driver brings."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Run = Callable[[Sequence[str]], str | None]

FIELDS = ("index", "name", "memory.total", "memory.used", "driver_version")
OPTIONAL = {
    "compute_cap": ("compute_cap",),
    "mig": ("mig.mode.current",),
    "slowed": ("clocks_event_reasons.hw_slowdown", "clocks_throttle_reasons.hw_slowdown"),
}
"""Fields that old drivers lack or name differently. One unknown field makes a whole query fail."""

TIMEOUT_S = 30.0

_RAY_NAME = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")


@dataclass(frozen=True)
class Card:
    """One GPU; a field is None if the driver does not report it."""

    index: int
    name: str
    driver: str
    memory_mib: float | None
    used_mib: float | None
    capability: tuple[int, int] | None = None
    mig: bool = False
    slowed: bool = False

    @property
    def ray_name(self) -> str:
        """The `accelerator_type` that Ray gives to a node whose first card is this card."""
        match = _RAY_NAME.match(self.name)
        if match and len(match.group(1)) > 1:
            return match.group(1).replace(" ", "-")
        return self.name.removeprefix("NVIDIA").strip().replace(" ", "-")


def run_nvidia_smi(arguments: Sequence[str]) -> str | None:
    """The output of nvidia-smi, or None if nvidia-smi is missing or fails."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_cards(run: Run = run_nvidia_smi) -> list[Card] | None:
    """Every GPU of this machine, or None if the driver cannot be queried."""
    rows = _query(run, FIELDS)
    if rows is None:
        return None
    more = {name: _find_field(run, aliases) for name, aliases in OPTIONAL.items()}
    return [_read_card(row, more) for row in rows]


def _query(run: Run, fields: Iterable[str]) -> list[list[str]] | None:
    text = run([f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"])
    if text is None:
        return None
    return [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]


def _find_field(run: Run, aliases: Sequence[str]) -> Mapping[str, str]:
    """A field by the GPUs' indices, under the first of its names that the driver knows."""
    for name in aliases:
        rows = _query(run, ("index", name))
        if rows is not None:
            return {row[0]: row[1] for row in rows}
    return {}


def _read_card(row: Sequence[str], more: Mapping[str, Mapping[str, str]]) -> Card:
    index, name, total, used, driver = row
    return Card(
        index=int(index),
        name=name,
        driver=driver,
        memory_mib=_read_number(total),
        used_mib=_read_number(used),
        capability=_read_capability(more["compute_cap"].get(index, "")),
        mig=more["mig"].get(index) == "Enabled",
        slowed=more["slowed"].get(index) == "Active",
    )


def _read_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", "[Insufficient Permissions]"
        return None


def _read_capability(text: str) -> tuple[int, int] | None:
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None
