"""Whether the engines of the tiers could start on a machine: its GPUs and its compilers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.cards import Run, read_cards, run_nvidia_smi
from serve_app.offline.doctor.compilers import check_compilers
from serve_app.offline.doctor.finding import CheckResult, Level
from serve_app.offline.doctor.gpus import check_gpus


def check_engines_here(
    tiers: Sequence[TierConfig], environment: Mapping[str, str], run: Run = run_nvidia_smi
) -> Iterator[CheckResult]:
    """Check the GPUs and compilers of this machine, for engines that have this environment."""
    cards = read_cards(run)
    yield from check_gpus(tiers, cards, environment, run)
    yield from check_compilers(tiers, cards or [], environment)


def find_engine_errors(
    tiers: Sequence[TierConfig], environment: Mapping[str, str], run: Run = run_nvidia_smi
) -> list[CheckResult]:
    """The errors that keep engines from starting on one node of a cluster.

    Only tiers for the node's cards are checked, and warnings are left out: a node with too few
    cards for one tier may be meant for another tier.
    """
    names = {card.ray_name for card in read_cards(run) or []}
    placed = [tier for tier in tiers if tier.accelerator_type in {None, *names}]
    found = check_engines_here(placed, environment, run)
    return [finding for finding in found if finding.level is Level.ERROR]
