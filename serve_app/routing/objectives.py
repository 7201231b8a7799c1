"""What a Router needs to know for its objectives: how long answers are, and what costs weigh.

The weight of money decides between quality and cost (`routing/worth.py`). `weighted` has a fixed
weight. `quality` and `cost` move it by every call, in the direction that keeps the bound:

    quality    weight += STEP * (cost / cost_max - 1)          in budgets; or
               weight += STEP * (1 if strongest - target)      in strong calls
    cost       weight += STEP * (right - quality_min * best)   in mean costs of the dearest tier

The budget is one of real costs: when a call has ended, the difference to its expected cost counts.
The weight is never below 0, where the best tier answers. So the sum of the excess over any calls in
a row is the change of the weight over STEP: it is bounded, whatever calls come, as long as a weight
of LEVEL_MAX leaves a tier within the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from serve_app.config.objectives import find_missing
from serve_app.config.prices import PricesConfig
from serve_app.config.runtime import RoutingConfig, RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, Objective, Prospect, Reason, Record, Usage
from serve_app.core.errors import InvalidField
from serve_app.core.headers import OBJECTIVE_HEADER
from serve_app.core.load import TierLoad
from serve_app.core.money import to_units
from serve_app.core.residence import Residence
from serve_app.routing.history import AnswerHistory, Mean, is_free, is_telling
from serve_app.routing.worth import CostWeights, Weighing, find_headless, match_heads

STEP_OF_COST = 0.01
STEP_OF_SHARE = 0.02
STEP_OF_QUALITY = 0.1
"""A higher step holds the bound tighter, and sends more calls the other way only to correct."""
LEVEL_MAX = 2.0
"""Half a budget, or half of what the dearest tier costs, then weighs as much as a right answer."""

NO_PRICES = PricesConfig()

Residences = Callable[[TierConfig], Residence]
"""What the caches of a tier hold of one call, in seconds of a replica."""


class Level:
    """A weight that rises with each excess over a bound, and falls with what a bound leaves."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def note(self, move: float) -> None:
        """Rise or fall. A level at its end owes no more, because more would change no choice."""
        if move <= 0 or self.value < LEVEL_MAX:
            self.value = max(0.0, self.value + move)


class Objectives:
    """Weighs the calls of one Router, and keeps its budgets and floors."""

    def __init__(self, configs: Sequence[TierConfig]) -> None:
        self._tiers = [tier for tier in configs if "generate" in tier.tasks]
        self._histories = {tier.name: AnswerHistory() for tier in self._tiers}
        self._runtime: RuntimeConfig | None = None
        self._heads: tuple[str, ...] = ()
        self._positions: Mapping[str, int] = {}
        self._offered: Sequence[Objective] = ()
        self._levels = {objective: Level() for objective in Objective}
        self._dearest = Mean()

    def weigh(
        self,
        call: Call,
        runtime: RuntimeConfig,
        heads: tuple[str, ...],
        residences: Residences,
        loads: Mapping[str, TierLoad],
    ) -> Weighing | None:
        """How the call is weighed, None where no objective decides it.

        Raises:
            InvalidField: the call asks for an objective that this service does not offer.
        """
        objective = call.objective or runtime.routing.objective
        if objective is None or not call.endpoint.generates:
            return None
        self._follow(runtime, heads)
        if call.objective is not None and call.objective not in self._offered:
            raise InvalidField(OBJECTIVE_HEADER.decode(), self._describe_offer())

        def estimate(tier: TierConfig, right: float, prompt_tokens: int) -> Prospect:
            tokens = self._count_answer(call, tier, runtime.routing)
            usage = Usage(prompt_tokens, tokens)
            load = loads.get(tier.name)
            return self._estimate(tier, right, usage, runtime.prices, residences(tier), load)

        weights = self._weigh_costs(objective, runtime.routing)
        strongest = self._tiers[-1].name
        return Weighing(objective, weights, self._positions, strongest, estimate)

    def note(self, decision: Decision, runtime: RuntimeConfig) -> None:
        """Note the decision of a real call: move the weight that its objective holds a bound by."""
        chosen, objective = decision.prospect, decision.objective
        if chosen is None or objective is None:
            return
        self._dearest.note(max(prospect.cost for prospect in decision.prospects))
        best = max(prospect.right for prospect in decision.prospects)
        self._levels[objective].note(self._find_move(objective, chosen, best, runtime.routing))

    def note_end(self, record: Record, runtime: RuntimeConfig) -> None:
        """Note how long an answer was, and what it cost more or less than was expected."""
        decision = record.decision
        if decision is None or decision.tier not in self._histories:
            return
        if is_telling(record):
            self._histories[decision.tier].note(record)
        self._correct(decision, record, runtime)

    def _correct(self, decision: Decision, record: Record, runtime: RuntimeConfig) -> None:
        """Put the real cost of a call in the place of the expected one. An answer from the cache
        has not been noted, nor the tier of a fallback."""
        expected, budget = decision.prospect, runtime.routing.objectives.cost_max
        noted = decision.objective is Objective.QUALITY and decision.reason is not Reason.FALLBACK
        if expected is None or not noted or budget is None or is_free(record):
            return
        price = (runtime.prices or NO_PRICES).find(decision.tier, decision.model_id)
        excess = to_units(price.cost(record.usage)) - expected.cost
        self._levels[Objective.QUALITY].note(STEP_OF_COST * excess / budget)

    def cost_weights(self, runtime: RuntimeConfig) -> CostWeights | None:
        """The weights in force for calls without the header, None without an objective."""
        objective = runtime.routing.objective
        return None if objective is None else self._weigh_costs(objective, runtime.routing)

    def _follow(self, runtime: RuntimeConfig, heads: tuple[str, ...]) -> None:
        """Take a new config; a changed bound begins anew."""
        if runtime is self._runtime and heads is self._heads:
            return
        before, self._runtime, self._heads = self._runtime, runtime, heads
        self._positions = match_heads(heads, self._tiers)
        self._offered = list_offered(runtime, heads, self._tiers)
        if before is None or _bounds(before) != _bounds(runtime):
            self._levels = {objective: Level() for objective in Objective}

    def _describe_offer(self) -> str:
        if not self._offered:
            return "no such header, because this service offers no objective"
        return f"one of {', '.join(self._offered)}"

    def _weigh_costs(self, objective: Objective, routing: RoutingConfig) -> CostWeights:
        level, config = self._levels[objective].value, routing.objectives
        gpu = routing.residency_weight
        if objective is Objective.WEIGHTED:
            return CostWeights(config.money_weight, config.time_weight, gpu=gpu)
        if objective is Objective.COST:
            dearest = self._dearest.value
            return CostWeights(level / dearest if dearest else 0.0, gpu=gpu)
        if config.cost_max is None:
            return CostWeights(strong=level, gpu=gpu)
        return CostWeights(level / config.cost_max, gpu=gpu)

    def _find_move(
        self, objective: Objective, chosen: Prospect, best: float, routing: RoutingConfig
    ) -> float:
        config, target = routing.objectives, routing.strong_ratio_target
        if objective is Objective.COST:
            return STEP_OF_QUALITY * (chosen.right - config.quality_min * best)
        if objective is Objective.WEIGHTED:
            return 0.0
        if config.cost_max is not None:
            return STEP_OF_COST * (chosen.cost / config.cost_max - 1)
        strong = chosen.tier == self._tiers[-1].name
        return STEP_OF_SHARE * (strong - (target or 0.0))

    def _count_answer(self, call: Call, tier: TierConfig, routing: RoutingConfig) -> int:
        """The tokens that the tier is expected to generate."""
        usual = self._histories[tier.name].tokens.value
        tokens = routing.objectives.answer_tokens_assumed if usual is None else round(usual)
        asked = call.output_tokens_max
        return (tokens if asked is None else min(tokens, asked)) * call.prompt.answers

    def _estimate(
        self,
        tier: TierConfig,
        right: float,
        usage: Usage,
        prices: PricesConfig | None,
        residence: Residence,
        load: TierLoad | None,
    ) -> Prospect:
        price = (prices or NO_PRICES).find(tier.name, tier.model_id)
        history = self._histories[tier.name]
        cold = price.cost(usage)
        usage.cached_tokens = round(residence.cached_ratio * (usage.prompt_tokens or 0))
        warm = price.cost(usage)
        waits_s = history.first_token_s.value or 0.0, (load and load.first_token_s) or 0.0
        saved_s = min(max(waits_s), residence.gain_s)
        writes_s = (usage.completion_tokens or 0) * (history.per_token_s.value or 0.0)
        return Prospect(
            tier.name,
            right,
            to_units(warm),
            max(waits_s) - saved_s + writes_s,
            to_units(cold - warm),
            saved_s,
            residence.on_gpus(tier.gpus).gain_s,
        )


def list_offered(
    runtime: RuntimeConfig, heads: Sequence[str], tiers: Sequence[TierConfig]
) -> Sequence[Objective]:
    """The objectives that a call may ask for: those that lack nothing. `tiers` generate."""
    if find_headless(heads, tiers):
        return ()
    objectives, target = runtime.routing.objectives, runtime.routing.strong_ratio_target
    return [
        objective
        for objective in Objective
        if find_missing(objective, objectives, target, runtime.prices, tiers) is None
    ]


def _bounds(runtime: RuntimeConfig) -> tuple[object, ...]:
    routing = runtime.routing
    return routing.objectives.cost_max, routing.objectives.quality_min, routing.strong_ratio_target
