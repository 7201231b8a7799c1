"""Chooses among tiers by what each promises for a call: pure functions.

Quality, money and time are compared in one unit, P(right). The worth of a tier is its own P(right)
less what the call costs there. An objective is nothing but the weights of money and time; what is
already in a tier's caches makes the tier cheaper and faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Objective, Prospect
from serve_app.routing.residency import GPU_S_MAX
from serve_app.routing.weights import HEADS

Estimate = Callable[[TierConfig, float, int], Prospect]
"""From a tier, its P(right) and the tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class CostWeights:
    """What costs are worth, in P(right): a unit of the currency, a second until the end of the
    answer, a call of the strongest tier, a second of a GPU that a cache saves."""

    money: float = 0.0
    time: float = 0.0
    strong: float = 0.0
    gpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Weighing:
    """How an objective weighs one call. `heads` are the positions of the tiers' chances by name,
    `strongest` is the name of the strongest of all tiers."""

    objective: Objective
    weights: CostWeights
    heads: Mapping[str, int]
    strongest: str
    estimate: Estimate

    def list_prospects(
        self, tiers: Sequence[TierConfig], chances: Sequence[float], prompt_tokens: int
    ) -> tuple[Prospect, ...]:
        """What the tiers promise, as far as there is a head for them; weakest first."""
        known = [tier for tier in tiers if tier.name in self.heads]
        return tuple([self.estimate(t, chances[self.heads[t.name]], prompt_tokens) for t in known])

    def choose(self, prospects: Sequence[Prospect]) -> tuple[Prospect, bool]:
        """The tier that is worth most, the weakest of equals; and whether caches decided it."""
        warm = max(prospects, key=self.worth)
        cold = max(prospects, key=lambda prospect: self.worth(prospect) - self._saved(prospect))
        return warm, warm.tier != cold.tier

    def worth(self, prospect: Prospect) -> float:
        """P(right) less all costs."""
        x, p = self.weights, prospect
        strong = x.strong * (p.tier == self.strongest)
        gpu = x.gpu * min(p.saved_gpu_s, GPU_S_MAX)
        return p.right - x.money * p.cost - x.time * p.time_s - strong + gpu

    def _saved(self, prospect: Prospect) -> float:
        x, p = self.weights, prospect
        gpu = x.gpu * min(p.saved_gpu_s, GPU_S_MAX)
        return x.money * p.saved_cost + x.time * p.saved_s + gpu


def match_heads(heads: Sequence[str], tiers: Sequence[TierConfig]) -> Mapping[str, int]:
    """The position of each tier's head. `tiers` are all that generate, weakest first.

    Heads without names of their own are those of the weakest and of the strongest tier.
    """
    if tuple(heads) == HEADS and len(tiers) > 1:
        return {tiers[0].name: 0, tiers[-1].name: 1}
    return {
        tier.name: position
        for tier in tiers
        for position, head in enumerate(heads)
        if tier.find_model(head) is not None
    }


def find_headless(heads: Sequence[str], tiers: Sequence[TierConfig]) -> Sequence[str]:
    """The names of the tiers that the weights have no head for. `tiers` are those that generate."""
    if len(tiers) < 2:
        return []
    matched = match_heads(heads, tiers)
    return [tier.name for tier in tiers if tier.name not in matched]
