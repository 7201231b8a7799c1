"""Limits, load and tiers that fail, as a client of the gateway sees them."""

from __future__ import annotations

import httpx
import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.errors import (
    DeadlineExceeded,
    GatewayError,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
    WouldBeLate,
)
from serve_app.core.load import TierLoad
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway

HARD = [{"role": "user", "content": "Prove that there are infinitely many primes, step by step."}]


def routing(**keys: object) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"routing": keys})


async def ask(gateway: Gateway, headers: dict[str, str], **body: object) -> httpx.Response:
    document = {"messages": HARD, **body}
    return await gateway.client.post("/v1/chat/completions", json=document, headers=headers)


@pytest.mark.parametrize(
    "error", [TierUnavailable(1), TierOverloaded(5), WouldBeLate(3), UpstreamFailed()]
)
async def test_another_tier_answers_for_one_that_takes_no_call(
    gateway: Gateway, error: GatewayError
) -> None:
    """The headers, the record and the forwarded model are those of the tier that answered."""
    gateway.strong.answer = error
    response = await gateway.chat(messages=HARD)
    assert response.status_code == 200
    assert response.headers["x-route-tier"] == "fast"
    assert response.headers["x-route-model"] == "demo-fast"
    assert response.headers["x-route-reason"] == "fallback"
    assert float(response.headers["x-route-score"]) > 0.5
    (record,) = gateway.recorder.records
    assert record.decision is not None
    assert record.decision.tier == "fast"
    assert record.late_tiers == (["strong"] if isinstance(error, WouldBeLate) else [])
    assert b'"model":"demo-fast"' in gateway.fast.requests[0]._body
    assert gateway.fast.open_exchanges == gateway.strong.open_exchanges == 0


async def test_a_tier_that_is_known_to_be_down_is_not_asked(gateway: Gateway) -> None:
    """Its calls go elsewhere at once, and `/v1/route` says so."""
    gateway.strong.state = TierLoad(down=True)
    assert (await gateway.chat(messages=HARD)).headers["x-route-reason"] == "fallback"
    assert not gateway.strong.requests
    explained = (await gateway.client.post("/v1/route", json={"messages": HARD})).json()
    assert (explained["tier"], explained["reason"]) == ("fast", "fallback")
    assert explained["load"]["strong"]["down"] is True


async def test_where_no_tier_takes_the_call_the_error_is_the_clients(gateway: Gateway) -> None:
    """Each is asked once."""
    gateway.strong.answer, gateway.fast.answer = TierUnavailable(1), TierOverloaded(5)
    response = await gateway.chat(messages=HARD)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert len(gateway.strong.requests) == len(gateway.fast.requests) == 1


@pytest.mark.parametrize(
    ("headers", "body", "keys"),
    [
        ({}, {"model": "strong"}, {}),
        ({"x-route-tier": "strong"}, {}, {}),
        ({"x-route-never-below": "strong"}, {}, {}),
        ({}, {}, {"fallback": False}),
        ({}, {}, {"never_below": "strong"}),
    ],
)
async def test_who_gets_the_error_of_his_tier(
    gateway: Gateway, headers: dict[str, str], body: dict[str, object], keys: dict[str, object]
) -> None:
    """Who named it, whom limits keep there, and all if the policy allows no fallback."""
    gateway.pipeline.runtime = routing(**keys)
    gateway.strong.answer = TierUnavailable(1)
    response = await ask(gateway, headers, **body)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_unavailable"
    assert not gateway.fast.requests


async def test_a_call_whose_time_is_up_is_not_sent_elsewhere(gateway: Gateway) -> None:
    """The other tier would have no time for it either."""
    gateway.strong.answer = DeadlineExceeded("first byte", 1)
    assert (await gateway.chat(messages=HARD)).status_code == 504
    assert not gateway.fast.requests


async def test_an_answer_that_has_begun_is_not_begun_again(gateway: Gateway) -> None:
    """Two models never speak in one answer, whatever the engine says late."""
    gateway.strong.answer = FakeAnswer([b"data: 1\n\n"], error=TierUnavailable(1))
    await gateway.chat(messages=HARD)
    assert not gateway.fast.requests


@pytest.mark.parametrize(
    ("headers", "tier", "reason"),
    [
        ({"x-route-never-above": "fast"}, "fast", "never_above"),
        ({"x-route-never-above": "demo-fast"}, "fast", "never_above"),
        ({"x-route-never-below": "fast"}, "strong", "complex"),
    ],
)
async def test_limits_by_header(
    gateway: Gateway, headers: dict[str, str], tier: str, reason: str
) -> None:
    """They hold for calls and for explanations alike."""
    response = await ask(gateway, headers)
    assert (response.headers["x-route-tier"], response.headers["x-route-reason"]) == (tier, reason)
    explained = await gateway.client.post("/v1/route", json={"messages": HARD}, headers=headers)
    assert explained.json()["reason"] == reason


async def test_a_wrong_limit_is_a_bad_request(gateway: Gateway) -> None:
    """The answer names the header and the tiers there are."""
    response = await ask(gateway, {"x-route-never-below": "huge"})
    assert response.status_code == 400
    assert "x-route-never-below" in response.json()["error"]["message"]
    assert "fast, strong" in response.json()["error"]["message"]


async def test_a_busy_tier_sheds_borderline_calls(gateway: Gateway) -> None:
    """Only if a rule looks at the load."""
    gateway.strong.state = TierLoad(first_token_s=3.0)
    assert (await gateway.chat(messages=HARD)).headers["x-route-reason"] == "complex"
    gateway.pipeline.runtime = routing(load={"first_token_target_s": 1, "busy_score_band": 1})
    response = await gateway.chat(messages=HARD)
    assert response.headers["x-route-reason"] == "strong_busy"
    assert gateway.pipeline.wanted == {"fast": 0, "strong": 2}
    assert response.headers["x-route-tier"] == "fast"


async def test_an_idle_tier_takes_borderline_calls(gateway: Gateway) -> None:
    """Up to the configured band below the threshold."""
    gateway.pipeline.runtime = routing(load={"idle_score_band": 0.5})
    assert (await gateway.chat()).headers["x-route-reason"] == "strong_idle"


@pytest.mark.parametrize("session", ["", "with space", "x" * 257, "ümlaut"])
async def test_a_session_id_that_cannot_be_one(gateway: Gateway, session: str) -> None:
    """It is refused with the header's name, before anything is asked."""
    response = await gateway.client.post(
        "/v1/chat/completions",
        json={"messages": HARD},
        headers=[(b"x-session-id", session.encode())],
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-session-id"
    assert not gateway.strong.requests


async def test_a_session_id_goes_no_further(gateway: Gateway) -> None:
    """Neither the engine nor the record sees it."""
    await ask(gateway, {"x-session-id": "alice-and-bob"})
    (request,) = gateway.strong.requests
    assert "alice" not in repr((request._body, gateway.recorder.records))


async def test_calls_are_counted_by_the_tier_that_was_meant_for_them(gateway: Gateway) -> None:
    """Wherever they are answered: autoscaling must know what a tier lacks."""
    await gateway.chat()
    gateway.strong.answer = TierOverloaded(5)
    await gateway.chat(messages=HARD)
    assert gateway.pipeline.wanted == {"fast": 1, "strong": 1}
