"""GPUs beside tokens that others sell: by hand, and the shipped table."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from serve_app.offline.planning.cards import read_card_table
from serve_app.offline.planning.models import list_models
from serve_app.offline.planning.plan import Options, Plan, make_plan
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.prices import (
    GIVEN,
    Tokens,
    _read_table,
    compare_prices,
    parse_tokens,
)
from serve_app.offline.planning.roofline import Workload
from tests.offline.planning.tiers import tier

B72 = "Qwen/Qwen2.5-72B-Instruct"


def plan(price: float | None = None, **fields: Any) -> Plan:
    replicas = {"min": 2, "max": 4, "target_ongoing_calls": 48}
    strong = tier(B72, engine={"tensor_parallel_size": 4}, replicas=replicas, **fields)
    return make_plan([strong], Options(price_per_gpu_hour=price))


def test_a_call_costs_its_prompt_and_its_answer() -> None:
    """1,024 tokens at 1 and 256 at 4 dollars the million."""
    tokens = Tokens("x", 1.0, 4.0, None, "given")
    assert tokens.price_call(Workload(1024, 256)) == pytest.approx(0.002048)


def test_where_it_turns_both_cost_the_same() -> None:
    """At the load that is named, an hour of the replicas costs what its calls cost elsewhere."""
    made = plan(2.0)
    [comparison] = compare_prices(made)
    assert comparison.rents[0].rent.offer == GIVEN
    rates = made.rates["fast"]
    assert rates is not None
    for cost in comparison.tokens:
        hour = 3600 * cost.pays_from_calls_per_s * cost.tokens.price_call(made.load)
        assert hour == pytest.approx(2.0 * 4 * 2), "two replicas of four GPUs"
        share = cost.pays_from_calls_per_s / (2 * rates.calls_per_s(made.load))
        assert cost.pays_from_ratio == pytest.approx(share)
        assert cost.output_million == pytest.approx(cost.tokens.prompt * 4 + cost.tokens.output)


def test_the_cheapest_gpus_stand_first_unless_a_price_is_given() -> None:
    """They are what tokens are held against."""
    [listed] = compare_prices(plan())
    prices = [cost.rent.per_gpu_hour for cost in listed.rents]
    assert prices == sorted(prices)
    assert len(prices) > 1
    [given] = compare_prices(plan(100.0))
    assert [cost.rent.per_gpu_hour for cost in given.rents] == [100.0, *prices]
    assert given.tokens[0].pays_from_ratio > listed.tokens[0].pays_from_ratio


def test_a_month_is_paid_whether_used_or_not() -> None:
    """The fewest replicas, all hours."""
    cost = compare_prices(plan(2.0))[0].rents[0]
    assert cost.month_min == pytest.approx(2.0 * 730 * 4 * 2)


def test_given_prices_replace_the_shipped() -> None:
    """Of tokens for every tier; free tokens are never undercut."""
    given = [parse_tokens("mine=1/4"), parse_tokens("free=0/0")]
    [comparison] = compare_prices(plan(2.0), given)
    assert [cost.tokens.offer for cost in comparison.tokens] == ["mine", "free"]
    assert comparison.tokens[1].pays_from_ratio == float("inf")


@pytest.mark.parametrize("text", ["", "x", "x=1", "=1/2", "x=a/b", "x=-1/2", "x=1/inf", "x=nan/1"])
def test_what_is_no_price_is_refused(text: str) -> None:
    """With the form that it should have."""
    with pytest.raises(PlanningFailed, match="not NAME=PROMPT/OUTPUT"):
        parse_tokens(text)


def test_a_card_without_prices_is_compared_with_nothing() -> None:
    """Tokens are listed, but no GPUs of unknown price are said to pay."""
    [comparison] = compare_prices(plan(accelerator_type="H200"))
    assert comparison.rents == []
    assert {cost.pays_from_ratio for cost in comparison.tokens} == {float("inf")}


def test_a_tier_without_a_speed_is_left_out() -> None:
    """On a CPU, or where it does not fit."""
    cpu = tier(
        "demo-fast",
        model_source="demo:fast",
        accelerator="cpu",
        accelerator_type=None,
        engine={"max_model_len": 8192, "num_gpu_blocks_override": 1024},
    )
    assert compare_prices(make_plan([cpu, tier(B72, name="strong")], Options())) == []


def test_every_shipped_price_says_when_and_where() -> None:
    """A day that has been, a source, a known card or model, and dollars that are plausible."""
    rents, tokens = _read_table()["rent"], _read_table()["tokens"]
    assert len(rents) >= 8
    assert len(tokens) >= 8
    for row in (*rents, *tokens):
        assert isinstance(row["read"], date)
        assert date(2026, 1, 1) <= row["read"] <= datetime.now(UTC).date()
        assert row["source"]
    assert {row["card"] for row in rents} <= read_card_table().keys()
    assert all(0.1 < row["per_gpu_hour"] < 50 for row in rents)
    assert {row["model"] for row in tokens if "model" in row} <= set(list_models())
    assert all(0 < row["prompt"] <= row["output"] < 100 for row in tokens)
