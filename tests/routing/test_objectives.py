"""Budgets and floors hold, whatever calls come; which objectives a service offers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.app import AppConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import (
    CacheResult,
    Call,
    Decision,
    Draft,
    Endpoint,
    Objective,
    Outcome,
    Prompt,
    Reason,
    Record,
    Usage,
)
from serve_app.core.errors import InvalidField
from serve_app.core.load import TierLoad
from serve_app.core.residence import NOWHERE, Residence
from serve_app.routing.choose import choose_route
from serve_app.routing.live import Live
from serve_app.routing.objectives import (
    LEVEL_MAX,
    STEP_OF_COST,
    STEP_OF_QUALITY,
    STEP_OF_SHARE,
    Objectives,
)
from serve_app.routing.weights import HEADS
from tests.routing.fakes import FakePayload, FakeScorer

NAMES = ("small", "middle", "large")
THREE = tuple(TierConfig(name=name, model_id=f"Qwen/{name}") for name in NAMES)
PRICES = {"small": 1, "middle": 3, "large": 10}
OUTPUT_TOKENS = 1000
CHANCES = st.tuples(*[st.floats(0, 1)] * 3)
CALLS = st.lists(CHANCES, min_size=1, max_size=30)
REPEATS = st.integers(1, 20)


def make_runtime(objective: str | None = None, **objectives: float) -> RuntimeConfig:
    """Prices are units of the currency a thousand tokens of an answer."""
    prices = {name: {"input": 0, "output": 1000 * price} for name, price in PRICES.items()}
    target = objectives.pop("strong_ratio_target", None)
    return RuntimeConfig.model_validate(
        {
            "routing": {
                "objective": objective,
                "strong_ratio_target": target,
                "objectives": {"answer_tokens_assumed": OUTPUT_TOKENS, **objectives},
            },
            "prices": {"tiers": prices},
        }
    )


def make_call(objective: Objective | None = None, **prompt: int) -> Call:
    payload = FakePayload()
    return Call("id", Endpoint.CHAT, "auto", payload, Prompt(**prompt), objective=objective)


class Service:
    """Decides calls and notes them, as a Router does."""

    def __init__(self, runtime: RuntimeConfig, heads: tuple[str, ...] = NAMES) -> None:
        self.runtime = runtime
        self.heads = heads
        self.objectives = Objectives(THREE)
        self.residences: Mapping[str, Residence] = {}
        self.loads: Mapping[str, TierLoad] = {}

    def decide(self, chances: Sequence[float], call: Call | None = None) -> Decision:
        call = call or make_call()
        weighing = self.objectives.weigh(
            call,
            self.runtime,
            self.heads,
            lambda tier: self.residences.get(tier.name, NOWHERE),
            self.loads,
        )
        scorer = FakeScorer(0.5, self.heads, tuple(chances))
        live = Live(0.5, weighing=weighing)
        decision = choose_route(call, THREE, self.runtime.routing, scorer, live).first
        self.objectives.note(decision, self.runtime)
        return decision


def find_longest_excess(values: Sequence[float]) -> float:
    """The largest sum of values in a row."""
    worst = running = 0.0
    for value in values:
        running = max(0.0, running + value)
        worst = max(worst, running)
    return worst


@given(calls=CALLS, repeats=REPEATS, budget=st.floats(1, 9))
def test_a_budget_is_kept_whatever_calls_come(
    calls: list[tuple[float, ...]], repeats: int, budget: float
) -> None:
    """What any calls in a row cost too much is at most what the weight can move by."""
    service = Service(make_runtime("quality", cost_max=budget))
    costs = [PRICES[service.decide(chances).tier] for chances in calls * repeats]
    # A level of LEVEL_MAX must leave no tier that costs more than the budget.
    bar = max(LEVEL_MAX, *(budget / (cost - 1) for cost in (3, 10) if cost > budget), 0.0)
    if bar > LEVEL_MAX:
        return
    excess = find_longest_excess([cost / budget - 1 for cost in costs])
    assert excess <= (LEVEL_MAX / STEP_OF_COST) + 10 / budget + 1e-6


@given(calls=CALLS, repeats=REPEATS, target=st.floats(0.05, 0.9))
def test_a_share_is_kept_whatever_calls_come(
    calls: list[tuple[float, ...]], repeats: int, target: float
) -> None:
    """The budget may be a share of the strongest tier's calls, with any number of tiers."""
    service = Service(make_runtime("quality", strong_ratio_target=target))
    tiers = [service.decide(chances).tier for chances in calls * repeats]
    excess = find_longest_excess([(tier == "large") - target for tier in tiers])
    assert excess <= 1 / STEP_OF_SHARE + 1


@given(calls=CALLS, repeats=REPEATS, floor=st.floats(0, 1))
def test_a_floor_of_quality_is_kept_whatever_calls_come(
    calls: list[tuple[float, ...]], repeats: int, floor: float
) -> None:
    """By the chances that the heads give."""
    service = Service(make_runtime("cost", quality_min=floor))
    lacks = []
    for chances in calls * repeats:
        decision = service.decide(chances)
        right = dict(zip(NAMES, chances, strict=True))
        lacks.append(floor * max(chances) - right[decision.tier])
        assert decision.reason is Reason.COST
    assert find_longest_excess(lacks) <= (LEVEL_MAX + STEP_OF_QUALITY) / STEP_OF_QUALITY + 1e-6


def draw_calls(count: int) -> list[tuple[float, float, float]]:
    """Calls of every difficulty, in an order without a pattern."""
    hard = [(37 * number % 101) / 100 for number in range(count)]
    return [(1 - 0.9 * h, 1 - 0.6 * h * h, 1 - 0.3 * h**4) for h in hard]


def test_a_budget_is_spent_where_it_buys_most() -> None:
    """The mean cost meets the budget, and no random mixture of tiers of this cost is as good."""
    service = Service(make_runtime("quality", cost_max=4))
    decisions = [service.decide(chances) for chances in draw_calls(4000)][1000:]
    chosen = [next(p for p in d.prospects if p.tier == d.tier) for d in decisions]
    cost = math.fsum(p.cost for p in chosen) / len(chosen)
    assert cost == pytest.approx(4, abs=0.1)
    assert {d.tier for d in decisions} == set(NAMES)
    means = [math.fsum(d.prospects[i].right for d in decisions) / 3000 for i in range(3)]
    mixed = means[1] + (4 - 3) / (10 - 3) * (means[2] - means[1])
    assert math.fsum(p.right for p in chosen) / 3000 > mixed + 0.02


def test_a_floor_is_kept_at_less_cost() -> None:
    """The expected quality is that share of the best tiers', and the cost below the dearest's."""
    service = Service(make_runtime("cost", quality_min=0.95))
    decisions = [service.decide(chances) for chances in draw_calls(4000)][1000:]
    chosen = [next(p for p in d.prospects if p.tier == d.tier) for d in decisions]
    best = math.fsum(max(p.right for p in d.prospects) for d in decisions)
    assert math.fsum(p.right for p in chosen) / best == pytest.approx(0.95, abs=0.005)
    means = [math.fsum(d.prospects[i].right for d in decisions) / 3000 for i in range(3)]
    quality = math.fsum(p.right for p in chosen) / 3000
    mixed = 3 + (10 - 3) * (quality - means[1]) / (means[2] - means[1])
    assert math.fsum(p.cost for p in chosen) / 3000 < mixed - 0.5


def test_a_tier_without_a_head_moves_nothing() -> None:
    """Neither does a decision by another rule: nobody knows what was promised."""
    service = Service(make_runtime("quality", cost_max=1))
    decision = service.decide((0.1, 0.2, 0.9))
    before = service.objectives.cost_weights(service.runtime)
    assert before is not None
    assert before.money > 0
    for other in (replace(decision, tier="other"), Decision("large", "m", Reason.DRAFT)):
        service.objectives.note(other, service.runtime)
    assert service.objectives.cost_weights(service.runtime) == before


@pytest.mark.parametrize(
    ("tokens", "facts", "moved"),
    [
        (2000, {}, 2.0),
        (500, {}, 0.5),
        (2000, {"cache": CacheResult.MISS}, 2.0),
        (2000, {"cache": CacheResult.HIT}, 1.0),
        (2000, {"reason": Reason.FALLBACK}, 1.0),
        (0, {"status": 503}, 0.0),
    ],
)
def test_a_budget_is_one_of_real_costs(tokens: int, facts: dict[str, object], moved: float) -> None:
    """A call that ends otherwise than was expected moves the weight by the difference."""
    service = Service(make_runtime("quality", cost_max=5))
    decision = service.decide((0.1, 0.2, 0.9))
    decision = replace(decision, reason=facts.pop("reason", decision.reason))
    service.objectives.note_end(
        make_record("large", tokens, decision=decision, **facts), service.runtime
    )
    weights = service.objectives.cost_weights(service.runtime)
    assert weights is not None
    assert weights.money == pytest.approx(max(0, moved * 10 / 5 - 1) * STEP_OF_COST / 5)


def test_a_changed_bound_begins_anew() -> None:
    """Another change of the config keeps the weight."""
    service = Service(make_runtime("quality", cost_max=1))
    for _ in range(5):
        service.decide((0.1, 0.2, 0.9))
    before = service.objectives.cost_weights(service.runtime)
    assert before is not None
    service.runtime = make_runtime("quality", cost_max=1, time_weight=1)
    service.decide((0.9, 0.2, 0.1))
    assert service.objectives.cost_weights(service.runtime) == before
    service.runtime = make_runtime("quality", cost_max=2)
    service.decide((0.9, 0.2, 0.1))
    after = service.objectives.cost_weights(service.runtime)
    assert after is not None
    assert after.money < before.money / 2


def test_a_weight_of_time_lets_waits_be_measured() -> None:
    """Otherwise Routers do not measure them for an objective."""
    assert make_runtime("weighted", time_weight=0.1).watches_load
    assert not make_runtime("cost").watches_load


def make_record(tier: str, tokens: int, **facts: object) -> Record:
    record = Record("id", Endpoint.CHAT, True, decision=Decision(tier, tier, Reason.COST))
    record.status, record.first_byte_s, record.total_s = 200, 0.5, 0.5 + 0.01 * tokens
    record.usage = Usage(10, tokens)
    for name, value in facts.items():
        setattr(record, name, value)
    return record


def test_cost_and_time_are_expected_from_the_newest_answers() -> None:
    """Their tokens, at the tier's pace, after the wait that its load or its history shows."""
    service = Service(make_runtime("weighted", money_weight=0, time_weight=1))
    service.objectives.note_end(make_record("large", 200), service.runtime)
    service.objectives.note_end(make_record("large", 400), service.runtime)
    small, _, large = service.decide((0.5, 0.5, 0.5)).prospects
    assert (small.cost, small.time_s) == (1.0, 0.0)
    assert large.cost == pytest.approx(3.0)
    assert large.time_s == pytest.approx(0.5 + 300 * 0.01)
    service.loads = {"large": TierLoad(first_token_s=4.0)}
    assert service.decide((0.5, 0.5, 0.5)).prospects[2].time_s == pytest.approx(7.0)
    short = service.decide((0.5, 0.5, 0.5), make_call(output_tokens_max=100)).prospects[2]
    assert (short.cost, short.time_s) == (pytest.approx(1.0), pytest.approx(5.0))
    twice = service.decide((0.5, 0.5, 0.5), make_call(output_tokens_max=100, answers=2))
    assert twice.prospects[2].cost == pytest.approx(2.0)


@pytest.mark.parametrize(
    "facts",
    [
        {"outcome": Outcome.DISCONNECTED},
        {"status": 400},
        {"usage": Usage()},
        {"decision": None},
        {"decision": Decision("embed", "embed", Reason.ONLY_TIER)},
        {"draft": Draft("small", discarded=True)},
    ],
)
def test_other_calls_say_nothing_of_answers(facts: dict[str, object]) -> None:
    """Neither those that failed nor those that another tier had begun."""
    service = Service(make_runtime("weighted", time_weight=1))
    service.objectives.note_end(make_record("large", 5, **facts), service.runtime)
    assert service.decide((0.5, 0.5, 0.5)).prospects[2].cost == PRICES["large"]


def test_what_is_cached_costs_less_and_comes_sooner() -> None:
    """By the price of cached tokens, and by the time in which they are not read again."""
    runtime = make_runtime("weighted", money_weight=1, time_weight=1)
    price = {"input": 1000, "cached_input": 100, "output": 0}
    document = runtime.model_dump(exclude_unset=True)
    document["prices"] = {"tiers": dict.fromkeys(NAMES, price)}
    service = Service(RuntimeConfig.model_validate(document))
    service.objectives.note_end(make_record("large", 1), service.runtime)
    service.residences = {"large": Residence(gain_s=0.3, read_s=0.1)}
    _, middle, large = service.decide((0, 0, 0.1), make_call(token_ids=1000)).prospects
    tokens = middle.cost * 1000
    assert large.cost == pytest.approx(tokens / 1000 * (0.25 + 0.75 * 0.1), rel=0.01)
    assert large.saved_cost == pytest.approx(middle.cost - large.cost)
    assert (large.saved_s, large.saved_gpu_s) == (0.3, 0.3)
    assert large.time_s == pytest.approx(0.5 - 0.3 + 0.01)


@pytest.mark.parametrize(
    ("runtime", "heads", "offered"),
    [
        (make_runtime(), NAMES, ["cost"]),
        (make_runtime(cost_max=1), NAMES, ["quality", "cost"]),
        (make_runtime(strong_ratio_target=0.2), NAMES, ["quality", "cost"]),
        (make_runtime(money_weight=1), NAMES, ["cost", "weighted"]),
        (make_runtime(cost_max=1, time_weight=1), NAMES, ["quality", "cost", "weighted"]),
        (make_runtime(cost_max=1), HEADS, []),
        (make_runtime(cost_max=1), (), []),
        (RuntimeConfig(), NAMES, []),
    ],
)
def test_a_call_may_ask_for_what_lacks_nothing(
    runtime: RuntimeConfig, heads: tuple[str, ...], offered: list[str]
) -> None:
    """Budget, prices, and a head for each tier; anything else is refused by name."""
    service = Service(runtime, heads)
    for objective in Objective:
        call = make_call(objective)
        if objective in offered:
            assert service.decide((0.1, 0.5, 0.9), call).reason == objective.value
            continue
        with pytest.raises(InvalidField, match="x-route-objective") as refusal:
            service.decide((0.1, 0.5, 0.9), call)
        assert all(name in refusal.value.message for name in offered)


def test_a_call_that_generates_nothing_is_not_weighed() -> None:
    """Vectors have no quality to buy."""
    call = Call("id", Endpoint.EMBEDDINGS, "auto", FakePayload(), Prompt())
    weighing = Objectives(THREE).weigh(call, make_runtime("cost"), NAMES, lambda tier: NOWHERE, {})
    assert weighing is None


@pytest.mark.parametrize(
    ("routing", "prices", "words"),
    [
        ({"objective": "quality"}, {}, "'quality' needs routing.objectives.cost_max or routing"),
        ({"objective": "quality", "objectives": {"cost_max": 1}}, {}, "prices.tiers.small"),
        ({"objective": "cost"}, {"small": {"input": 1, "output": 1}}, "prices.tiers.middle"),
        ({"objective": "weighted"}, {}, "routing.objectives.money_weight or"),
        ({"objective": "weighted", "objectives": {"money_weight": 1}}, {}, "prices.tiers.small"),
        ({"objective": "cost", "scorer": "heuristic"}, {}, "the heuristic says nothing"),
        ({"objective": "best"}, {}, "'quality', 'cost' or 'weighted'"),
    ],
)
def test_an_objective_that_lacks_something_is_refused(
    routing: dict[str, object], prices: dict[str, object], words: str
) -> None:
    """Before the first call, by the key that is missing."""
    tiers = [{"name": tier.name, "model_id": tier.model_id} for tier in THREE]
    runtime = {"routing": routing, "prices": {"tiers": prices}}
    with pytest.raises(ValueError, match=words):
        AppConfig.model_validate({"tiers": tiers, "runtime": runtime})
