"""The held share of strong calls, as clients and operators of a gateway see it."""

from __future__ import annotations

import random

from serve_app.config.runtime import RuntimeConfig
from tests.gateway.conftest import Gateway
from tests.routing.prompts import EASY_EN, HARD_EN

HELD = RuntimeConfig.model_validate({"routing": {"strong_ratio_target": 0.25}})


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_the_share_is_held_for_calls(gateway: Gateway) -> None:
    """First easy prompts, then hard ones: of either a quarter goes strong."""
    gateway.pipeline.runtime = HELD
    chance = random.Random(1)
    for pool in (EASY_EN, HARD_EN):
        tiers = [
            (await gateway.chat(messages=messages(chance.choice(pool)))).headers["x-route-tier"]
            for _ in range(600)
        ]
        assert abs(tiers[-400:].count("strong") / 400 - 0.25) <= 0.03


async def test_an_explanation_does_not_feed_the_controller(gateway: Gateway) -> None:
    """`/v1/route` names the threshold in force, and asking changes nothing; a call does."""
    gateway.pipeline.runtime = HELD
    before = (await gateway.client.post("/v1/route", json={"prompt": "Hello"})).json()
    for _ in range(100):
        after = (await gateway.client.post("/v1/route", json={"prompt": "Hello"})).json()
    assert after == before
    assert after["control"] == {
        "target": 0.25,
        "threshold": 0.5,
        "share": None,
        "drift": None,
        "drifting": False,
        "calls": 0,
    }
    for _ in range(100):
        await gateway.chat()
    after = (await gateway.client.post("/v1/route", json={"prompt": "Hello"})).json()
    assert after["control"]["calls"] == 100
    assert after["threshold"] == after["control"]["threshold"] < 0.5


async def test_calls_that_name_their_model_do_not_feed_it(gateway: Gateway) -> None:
    """Neither by `model` nor by header."""
    gateway.pipeline.runtime = HELD
    for _ in range(60):
        await gateway.chat(model="strong")
        await gateway.client.post(
            "/v1/chat/completions",
            json={"messages": messages("Hello")},
            headers={"x-route-tier": "fast"},
        )
    state = gateway.pipeline.control_state()
    assert state is not None
    assert state.calls == 0


async def test_a_fixed_threshold_has_no_controller(gateway: Gateway) -> None:
    """By default `/v1/route` says so."""
    answer = (await gateway.client.post("/v1/route", json={"prompt": "Hello"})).json()
    assert (answer["threshold"], answer["control"]) == (0.5, None)
