"""Several tiers at once: what spills from one to another, and GPUs that do not suffice for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.autoscaling.demand import Capacity


@dataclass(frozen=True, slots=True)
class TierWish:
    """What one tier asks for: everybody's `floor` comes first, then what each one's `own` calls
    need, then what it is `wanted` for on top, in place of others."""

    name: str
    floor: int
    own: int
    wanted: int
    gpus: float


def count_spilled(needed: float, ready: int, strong: Capacity, fast: Capacity) -> float:
    """Replicas that the weaker tier needs on top while the stronger one lacks some.

    `needed` and `ready` are the stronger tier's replicas. A call takes the weaker model as much
    less time as it writes more tokens a second; where that is not known, as it takes more calls.
    """
    missing = max(0.0, needed - ready)
    if strong.output_tokens_per_s is None or fast.output_tokens_per_s is None:
        return missing * strong.calls / fast.calls
    return missing * strong.output_tokens_per_s / fast.output_tokens_per_s


def share_gpus(wishes: Sequence[TierWish], gpus_max: float | None) -> Mapping[str, int]:
    """Replicas for each tier, within the GPUs.

    Floors are granted even where they exceed the bound: they are what was promised. What is wanted
    in place of another tier comes last: before that tier's own it would keep it short, and so go on
    being wanted.
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
    """Give replicas one by one to the tier furthest from what it wants, while GPUs are left."""
    free = gpus_max - sum(granted[wish.name] * wish.gpus for wish in wishes)
    while True:
        open_ = [
            wish
            for wish in wishes
            if granted[wish.name] < wanted[wish.name] and wish.gpus <= free + 1e-9
        ]
        if not open_:
            return
        # Of equal shares the first, which is the weakest tier: it is what the others spill to.
        chosen = min(open_, key=lambda wish: granted[wish.name] / wanted[wish.name])
        granted[chosen.name] += 1
        free -= chosen.gpus
