"""A stand-in for nvidia-smi: its formats are written after NVIDIA's documentation, not recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

HEAD = "\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m"
LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
"""


def matrix(links: Sequence[str]) -> str:
    """`nvidia-smi topo -m` of four GPUs, by the links of each to the four."""
    rows = [
        f"GPU{at}\t" + "\t".join(f"{link:>4}" for link in line.split()) + "\tSYS\t0-31\t0\t\tN/A"
        for at, line in enumerate(links)
    ]
    return "\n".join([HEAD, *rows, "NIC0\tSYS\tSYS\tSYS\tSYS\t X\t\t\t\t", LEGEND])


NVLINK = matrix(["X NV18 NV18 NV18", "NV18 X NV18 NV18", "NV18 NV18 X NV18", "NV18 NV18 NV18 X"])
PCIE = matrix(["X PHB SYS SYS", "PHB X SYS SYS", "SYS SYS X PHB", "SYS SYS PHB X"])
BRIDGES = matrix(["X NV12 SYS SYS", "NV12 X SYS SYS", "SYS SYS X NV12", "SYS SYS NV12 X"])
"""Pairs of cards, as A100 PCIe cards with NVLink bridges are."""

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "memory.total": "81559",
    "memory.used": "4",
    "driver_version": "580.65.06",
    "compute_cap": "9.0",
    "mig.mode.current": "Disabled",
    "clocks_event_reasons.hw_slowdown": "Not Active",
}


@dataclass
class FakeSmi:
    """Cards by their fields; a field that no card has is unknown to this driver."""

    cards: list[dict[str, str]] = field(default_factory=list)
    topology: str | None = NVLINK
    missing: bool = False

    def __call__(self, arguments: Sequence[str]) -> str | None:
        if self.missing:
            return None
        if arguments[0] == "topo":
            return self.topology
        fields = arguments[0].removeprefix("--query-gpu=").split(",")
        rows = [{"index": str(at), **card} for at, card in enumerate(self.cards)]
        if any(name not in row for name in fields for row in rows):
            return None  # "Field ... is not a valid field to query.", and exit code 2
        return "".join(", ".join(row[name] for name in fields) + "\n" for row in rows)


def h100s(count: int, **changed: str) -> list[dict[str, str]]:
    """So many cards, with some fields changed (`_` for the dot)."""
    renamed = {name.replace("__", "."): value for name, value in changed.items()}
    return [{**H100, **renamed} for _ in range(count)]
