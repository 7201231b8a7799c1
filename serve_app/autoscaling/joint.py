"""Decides for several tiers: calls that spill from one to another, and too few GPUs for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.autoscaling.demand import Capacity


@dataclass(frozen=True, slots=True)
class TierWish:
    """The replicas that one tier asks for. The `floor` of every tier comes first, then the `own`
    calls of each tier, then the `wanted` replicas on top, which replace another tier's."""

    name: str
    floor: int
    own: int
    wanted: int
    gpus: float


def count_spilled(needed: float, ready: int, strong: Capacity, fast: Capacity) -> float:
    """Replicas that the weaker tier needs on top while the stronger tier lacks some.

    `needed` and `ready` are the stronger tier's replicas. The weaker model takes less time for a
    call, in proportion to its higher rate of written tokens. Where a rate is unknown, the numbers
    of calls at a time are compared instead.
    """
    missing = max(0.0, needed - ready)
    if strong.output_tokens_per_s is None or fast.output_tokens_per_s is None:
        return missing * strong.calls / fast.calls
    return missing * strong.output_tokens_per_s / fast.output_tokens_per_s


def share_gpus(wishes: Sequence[TierWish], gpus_max: float | None) -> Mapping[str, int]:
    """Replicas for each tier, within the GPUs.

    Floors are granted even where they exceed the bound, because the config promises them. Replicas
    that replace another tier's come last: if they came before that tier's own replicas, they would
    keep that tier short, and so would continue to be wanted.
    """
    granted = {wish.name: wish.floor for wish in wishes}
    if gpus_max is None:
        return {wish.name: max(wish.floor, wish.wanted) for wish in wishes}
    _grant(wishes, {wish.name: wish.own for wish in wishes}, granted, gpus_max)
    _grant(wishes, {wish.name: wish.wanted for wish in wishes}, granted, gpus_max)
    return granted


def _grant(
    wishes: Sequence[TierWish], wanted: Mapping[str, int], granted: dict[str, int], gpus_max: float
) -> None:
    """Give replicas one by one to the tier furthest from its wish, while GPUs are left."""
    free = gpus_max - sum(granted[wish.name] * wish.gpus for wish in wishes)
    while True:
        open_ = [
            wish
            for wish in wishes
            if granted[wish.name] < wanted[wish.name] and wish.gpus <= free + 1e-9
        ]
        if not open_:
            return
        # Of equal shares the first is chosen, which is the weakest tier: the others spill to it.
        chosen = min(open_, key=lambda wish: granted[wish.name] / wanted[wish.name])
        granted[chosen.name] += 1
        free -= chosen.gpus
