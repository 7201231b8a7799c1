"""Routing by the state of real tiers: a held share, a saturated tier, a killed one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.routing.prompts import EASY_EN, HARD_EN
from tests.serve.service import Service, wait_for

pytestmark = pytest.mark.serve

HARD = [{"role": "user", "content": HARD_EN[0]}]


def explain(service: Service, **body: Any) -> dict[str, Any]:
    """What `/v1/route` says."""
    answer = httpx.post(f"{service.base_url}/v1/route", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def ask_all(service: Service, texts: Sequence[str]) -> list[str]:
    """The tiers that answered, in the order of asking; eight calls at a time."""
    tiers: list[str] = [""] * len(texts)
    numbers = iter(range(len(texts)))
    async with httpx.AsyncClient(base_url=service.base_url, timeout=120) as http:

        async def work() -> None:
            for number in numbers:
                message = {"role": "user", "content": texts[number]}
                body = {"messages": [message], "max_tokens": 1}
                answer = await http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                tiers[number] = answer.headers["x-route-tier"]

        await asyncio.gather(*(work() for _ in range(8)))
    return tiers


async def test_the_share_of_strong_calls_holds(local: Service) -> None:
    """Easy prompts, then hard ones: a quarter of either goes strong, and metrics say so."""
    held = {"strong_ratio_target": 0.25, "strong_ratio_window": 300}
    await asyncio.to_thread(local.configure, {"routing": held})
    await asyncio.to_thread(
        wait_for,
        lambda: explain(local, prompt="Hi")["control"],
        timeout_s=30,
        what="the Router holds a share",
    )
    chance = random.Random(1)
    for pool in (EASY_EN, HARD_EN):
        tiers = await ask_all(local, chance.choices(pool, k=600))
        assert abs(tiers[200:].count("strong") / 400 - 0.25) <= 0.03
    control = explain(local, prompt="Hi")["control"]
    assert control == explain(local, prompt="Hi")["control"]
    assert control["calls"] == 300
    await asyncio.to_thread(
        wait_for,
        lambda: (
            local.metric("ray_serve_app_routing_threshold") == pytest.approx(control["threshold"])
            and local.metric("ray_serve_app_routing_strong_ratio") > 0.2
        ),
        timeout_s=40,
        what="the controller's metrics are exported",
    )


async def test_a_saturated_tier_sheds_borderline_calls(local: Service) -> None:
    """While calls wait for the strong tier, auto is answered by the fast one, and says why."""
    load = {"first_token_target_s": 0.5, "busy_score_band": 1.0}
    await asyncio.to_thread(local.configure, {"routing": {"load": load}})
    await asyncio.to_thread(
        wait_for,
        lambda: explain(local, messages=HARD)["control"] is None,
        timeout_s=30,
        what="the Router has the new config",
    )
    assert explain(local, messages=HARD)["reason"] == "complex"
    body = {
        "model": "strong",
        "stream": True,
        "max_tokens": 4000,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=local.base_url, timeout=300, limits=limits) as http:
        streams = [
            asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(90)
        ]
        seen: dict[str, Any] = {}
        async with asyncio.timeout(60):
            while (
                seen.get("reason") != "strong_busy"
                or not seen["load"]["strong"]["running"]
                or seen["load"]["strong"]["ongoing"] < 64
            ):
                answer = await http.post("/v1/route", json={"messages": HARD})
                seen = answer.json()
                await asyncio.sleep(0.2)
        strong = seen["load"]["strong"]
        assert strong["ongoing"] == 64
        assert strong["waiting"] == 26
        assert strong["first_token_s"] > 0.5
        assert 0 <= strong["kv_free_ratio"] < 1
        answer = await http.post("/v1/chat/completions", json={"messages": HARD, "max_tokens": 4})
        assert answer.status_code == 200
        assert answer.headers["x-route-tier"] == "fast"
        assert answer.headers["x-route-reason"] == "strong_busy"
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    await asyncio.to_thread(
        wait_for,
        lambda: explain(local, messages=HARD)["reason"] == "complex",
        timeout_s=30,
        what="the strong tier has time again",
    )
