"""The GPUs, as the driver's own `nvidia-smi` tells it: it is there wherever the driver is."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.finding import Finding, Level, note, ok

Run = Callable[[Sequence[str]], str | None]

QUERY = "index,name,memory.total,memory.used,driver_version,clocks_throttle_reasons.hw_slowdown"
MEMORY_USED_RATIO_MAX = 0.05
"""An idle driver holds some hundred MiB; an orphaned engine nearly all."""

_NVLINK = re.compile(r"\bNV\d+\b")
TIMEOUT_S = 30.0


def run_nvidia_smi(arguments: Sequence[str]) -> str | None:
    """What it prints, None where it is missing or fails."""
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


def check_gpus(tiers: Sequence[TierConfig], run: Run = run_nvidia_smi) -> Iterator[Finding]:
    """The cards of this machine, against the tiers that compute on GPUs."""
    wanted = [tier for tier in tiers if tier.accelerator == "gpu"]
    text = run([f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"])
    if text is None:
        if wanted:
            yield Finding(
                Level.WARNING,
                "GPUs",
                "nvidia-smi is not there, or fails",
                f"{', '.join(tier.name for tier in wanted)}: replicas need GPUs. A node without "
                "any can still be the head, or hold Routers.",
                "Install NVIDIA's driver, or run this on a GPU node.",
            )
        else:
            yield note("GPUs", "none here, and no tier wants one")
        return
    cards = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]
    if not cards:
        yield note("GPUs", "the driver knows none")
        return
    names = ", ".join(dict.fromkeys(card[1] for card in cards))
    yield ok("GPUs", f"{len(cards)} x {names}, driver {cards[0][4]}")
    for index, _, total, used, _, slowed in cards:
        if float(used) > MEMORY_USED_RATIO_MAX * float(total):
            yield Finding(
                Level.WARNING,
                "GPUs",
                f"GPU {index} has {float(used) / 1024:.1f} of {float(total) / 1024:.1f} GiB in use",
                "If no replica runs there it is an orphaned engine, and the next one does not fit.",
                "nvidia-smi names the process; docs/operations.md, Orphans.",
            )
        if slowed == "Active":
            yield Finding(
                Level.WARNING,
                "GPUs",
                f"GPU {index} is slowed down by its hardware",
                "Heat or power holds its clock down; every token takes longer.",
                "nvidia-smi -q -d PERFORMANCE; look at cooling and power.",
            )
    yield from _check_size(wanted, len(cards))
    yield from _check_links(wanted, len(cards), run)


def _check_size(tiers: Sequence[TierConfig], cards: int) -> Iterator[Finding]:
    for tier in tiers:
        if tier.tensor_parallel_size > cards:
            yield Finding(
                Level.WARNING,
                "GPUs",
                f"{tier.name} has tensor_parallel_size {tier.tensor_parallel_size}, and this node "
                f"{cards} GPUs",
                "A tensor-parallel group lies on one node, so no replica of it will run here.",
                "Fine if other nodes are for it; else a smaller tensor_parallel_size.",
            )


def _check_links(tiers: Sequence[TierConfig], cards: int, run: Run) -> Iterator[Finding]:
    if cards < 2 or not any(tier.tensor_parallel_size > 1 for tier in tiers):
        return
    topology = run(["topo", "-m"])
    if topology is None:
        yield note("GPU links", "nvidia-smi topo -m fails")
    elif _NVLINK.search(topology):
        yield ok("GPU links", "NVLink")
    else:
        yield Finding(
            Level.WARNING,
            "GPU links",
            "no NVLink between the GPUs",
            "Tensor parallelism exchanges data after every layer; over PCIe that costs much of "
            "what more GPUs bring.",
            "Fewer GPUs a group (a quantised model), or pipeline parallelism.",
        )
