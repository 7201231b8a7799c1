"""The GPUs of this machine, against the tiers that compute on GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.cards import Card, Run, run_nvidia_smi
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok
from serve_app.offline.doctor.links import check_links

MEMORY_USED_RATIO_MAX = 0.05
"""An idle driver holds a few hundred MiB; an orphaned engine holds nearly all memory."""

DRIVER_MIN = (580, 65, 6)
"""The first driver of CUDA 13, which the pinned PyTorch and vLLM are built for. Any CUDA 13.x runs
on drivers from R580 on (NVIDIA: CUDA Compatibility, Minor Version Compatibility, table 1)."""


def check_gpus(
    tiers: Sequence[TierConfig],
    cards: Sequence[Card] | None,
    environment: Mapping[str, str],
    run: Run = run_nvidia_smi,
) -> Iterator[CheckResult]:
    """The cards of this machine, against the tiers that compute on GPUs."""
    wanted = [tier for tier in tiers if tier.accelerator == "gpu"]
    if cards is None:
        yield _no_driver(wanted)
        return
    if not cards:
        yield note("GPUs", "the driver reports none")
        return
    names = ", ".join(dict.fromkeys(card.name for card in cards))
    yield ok("GPUs", f"{len(cards)} x {names}, driver {cards[0].driver}")
    for card in cards:
        yield from _check_card(card)
    if wanted:
        yield from _check_driver(cards[0].driver, environment)
        yield from _check_mig(cards)
        yield from _check_names(wanted, cards)
        yield from _check_size(wanted, len(cards))
        yield from check_links(wanted, cards, run)


def _no_driver(wanted: Sequence[TierConfig]) -> CheckResult:
    if not wanted:
        return note("GPUs", "none here, and no tier needs a GPU")
    return CheckResult(
        Level.WARNING,
        "GPUs",
        "nvidia-smi is missing or fails",
        f"{', '.join(tier.name for tier in wanted)}: replicas need GPUs. A node without "
        "GPUs can still be the head, or run Routers.",
        "Install NVIDIA's driver, or run this on a GPU node.",
    )


def _check_card(card: Card) -> Iterator[CheckResult]:
    total, used = card.memory_mib, card.used_mib
    if total and used and used > MEMORY_USED_RATIO_MAX * total:
        yield CheckResult(
            Level.WARNING,
            "GPUs",
            f"GPU {card.index} has {used / 1024:.1f} of {total / 1024:.1f} GiB in use",
            "If no replica runs on this GPU, an orphaned engine holds the memory, and the next "
            "engine does not fit.",
            "Find the process with nvidia-smi; see docs/operations.md, Orphans.",
        )
    if card.slowed:
        yield CheckResult(
            Level.WARNING,
            "GPUs",
            f"GPU {card.index} is slowed down by its hardware",
            "Heat or power limits the GPU's clock; every token takes longer.",
            "Run nvidia-smi -q -d PERFORMANCE; check cooling and power.",
        )


def _check_driver(driver: str, environment: Mapping[str, str]) -> Iterator[CheckResult]:
    version = tuple(int(part) for part in driver.split(".") if part.isdecimal())
    if version >= DRIVER_MIN:
        return
    compat = _find_compat(environment)
    yield CheckResult(
        Level.WARNING if compat else Level.ERROR,
        "driver",
        f"{driver} is older than {'.'.join(f'{part:02}' for part in DRIVER_MIN)}"
        + (f", and {compat} precedes it" if compat else ""),
        "PyTorch and vLLM are built for CUDA 13, which needs a driver of R580 or later. On "
        "data-centre cards, NVIDIA's forward-compatibility package makes CUDA 13 run on some "
        "older drivers.",
        "Install a driver of branch R580 or later. Or install the package cuda-compat-13-0, and "
        "put its directory into LD_LIBRARY_PATH of every Ray process.",
    )


def _find_compat(environment: Mapping[str, str]) -> Path | None:
    """NVIDIA's forward-compatibility library, found by the name of its package's directory.

    Other directories hold the installed driver's own library, for example /usr/local/nvidia/lib64.
    """
    parts = map(Path, environment.get("LD_LIBRARY_PATH", "").split(":"))
    places = [part / "libcuda.so.1" for part in parts if "compat" in part.parts]
    return next((place for place in places if place.exists()), None)


def _check_mig(cards: Iterable[Card]) -> Iterator[CheckResult]:
    split = [card.index for card in cards if card.mig]
    if split:
        yield CheckResult(
            Level.ERROR,
            "MIG",
            f"MIG mode is on: GPU {', '.join(map(str, split))}",
            "CUDA shows a process only one instance of such a card, and no tensor-parallel group "
            "can span instances. Ray still counts the card as one GPU.",
            "nvidia-smi -i INDEX -mig 0 while nothing runs on the card; or take the node out of "
            "the tiers' pool.",
        )


def _check_names(tiers: Iterable[TierConfig], cards: Sequence[Card]) -> Iterator[CheckResult]:
    if len({card.ray_name for card in cards}) > 1:
        names = ", ".join(dict.fromkeys(card.ray_name for card in cards))
        yield CheckResult(
            Level.WARNING,
            "GPUs",
            f"this node has several kinds of cards: {names}",
            f"Ray names all of them {cards[0].ray_name}, after the first card.",
            "Use one kind of card per node; the other cards can be a node of their own in a "
            "container.",
        )
    here = cards[0].ray_name
    for tier in tiers:
        if tier.accelerator_type not in (None, here):
            yield CheckResult(
                Level.WARNING,
                "GPUs",
                f"{tier.name} needs accelerator_type {tier.accelerator_type}, but Ray names this "
                f"node's cards {here}",
                "No replica of the tier is placed here.",
                "No change is needed if the tier runs on other nodes. Otherwise, set "
                f"accelerator_type: {here}, or start this node with `ray start` and "
                f"--resources '{{\"accelerator_type:{tier.accelerator_type}\": 1}}'.",
            )


def _check_size(tiers: Iterable[TierConfig], cards: int) -> Iterator[CheckResult]:
    for tier in tiers:
        if tier.tensor_parallel_size > cards:
            yield CheckResult(
                Level.WARNING,
                "GPUs",
                f"{tier.name} has tensor_parallel_size {tier.tensor_parallel_size}, but this node "
                f"has {cards} GPUs",
                "A tensor-parallel group lies on one node, so no replica of the tier can run here.",
                "No change is needed if the tier runs on other nodes. Otherwise, use a smaller "
                "tensor_parallel_size.",
            )
