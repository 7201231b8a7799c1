"""Several tiers at once: what spills from one to another, and GPUs that do not suffice for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.scaling.demand import Capacity


@dataclass(frozen=True, slots=True)
class TierWish:
    """What one tier asks for: `floor` comes before anybody's `wanted`."""

    name: str
    floor: int
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
    """Replicas for each tier, within the GPUs: floors first, then who is furthest from its wish.

    Floors are granted even where they exceed the bound: they are what was promised.
    """
    granted = {wish.name: wish.floor for wish in wishes}
    if gpus_max is None:
        return {wish.name: max(wish.floor, wish.wanted) for wish in wishes}
    free = gpus_max - sum(granted[wish.name] * wish.gpus for wish in wishes)
    while True:
        open_ = [
            wish for wish in wishes if granted[wish.name] < wish.wanted and wish.gpus <= free + 1e-9
        ]
        if not open_:
            return granted
        # Of equal shares the first, which is the weakest tier: it is what the others spill to.
        chosen = min(open_, key=lambda wish: granted[wish.name] / wish.wanted)
        granted[chosen.name] += 1
        free -= chosen.gpus
