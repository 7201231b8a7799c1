"""The objective of a call over HTTP: real Starlette, real pipeline, scripted tiers."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.routing.weights import HEADS
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway
from tests.gateway.test_access_matrix import BODIES
from tests.gateway.with_access import ROLES, build_guarded
from tests.routing.fakes import FakeScorer

PRICES = {"fast": {"input": 1, "output": 1}, "strong": {"input": 9, "output": 9}}
GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
HEADER = "x-route-objective"


def use(gateway: Gateway, *chances: float, **routing: object) -> None:
    """Let every call have these chances, and let tokens have prices."""
    gateway.pipeline.scorer = FakeScorer(0.1, HEADS, chances)
    gateway.pipeline.runtime = RuntimeConfig.model_validate(
        {"routing": routing, "prices": {"tiers": PRICES}}
    )


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize(("floor", "tier"), [(0.5, "fast"), (1, "strong")])
async def test_an_objective_chooses_in_every_dialect(
    gateway: Gateway, path: str, floor: float, tier: str
) -> None:
    """The answer says which tier and why, and keeps the score of the prompt."""
    use(gateway, 0.6, 0.9, objective="cost", objectives={"quality_min": floor})
    for _ in range(200):  # The floor is used by degrees.
        response = await gateway.client.post(path, json=BODIES[path])
    assert response.headers["x-route-tier"] == tier
    assert response.headers["x-route-reason"] == "cost"
    assert response.headers["x-route-score"] == "0.1000"


async def test_a_call_may_ask_for_another_objective(gateway: Gateway) -> None:
    """For itself alone; without the header and without an objective the score decides."""
    use(gateway, 0.6, 0.9, objectives={"money_weight": 1e9})
    body = BODIES["/v1/chat/completions"]
    for objective, tier in (("cost", "strong"), ("weighted", "fast")):
        response = await gateway.client.post(
            "/v1/chat/completions", json=body, headers={HEADER: objective}
        )
        assert response.headers["x-route-reason"] == objective
        assert response.headers["x-route-tier"] == tier
    assert (await gateway.chat()).headers["x-route-reason"] == "simple"


@pytest.mark.parametrize(
    ("value", "words"),
    [("best", "one of quality, cost, weighted"), ("", "one of"), ("quality", "one of cost")],
)
@pytest.mark.parametrize("path", [*GENERATING, "/v1/route"])
async def test_what_is_not_offered_is_refused_by_name(
    gateway: Gateway, path: str, value: str, words: str
) -> None:
    """A budget that the config does not set cannot be asked for; the error has the usual form."""
    use(gateway, 0.6, 0.9)
    body = BODIES.get(path, BODIES["/v1/chat/completions"])
    response = await gateway.client.post(path, json=body, headers={HEADER: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert words in error["message"]
    assert not [*gateway.fast.requests, *gateway.strong.requests]
    if path != "/v1/messages":
        assert (error["param"], error["type"]) == (HEADER, "invalid_request_error")


async def test_a_header_that_is_there_twice_is_refused(gateway: Gateway) -> None:
    """As each of the headers by which a client chooses."""
    headers = [(HEADER, "cost"), (HEADER, "cost"), ("content-type", "application/json")]
    response = await gateway.client.post("/v1/chat/completions", content=b"{}", headers=headers)
    assert response.status_code == 400


async def test_route_shows_what_each_tier_promises(gateway: Gateway) -> None:
    """And what money weighs; asking for it moves nothing."""
    use(gateway, 0.6, 0.9, objective="cost", objectives={"quality_min": 0.5})
    body = BODIES["/v1/chat/completions"]
    for _ in range(3):
        document = (await gateway.client.post("/v1/route", json=body)).json()
    assert (document["tier"], document["reason"]) == ("strong", "cost")
    assert [(p["tier"], p["right"]) for p in document["prospects"]] == [
        ("fast", 0.6),
        ("strong", 0.9),
    ]
    assert document["prospects"][1]["cost"] == pytest.approx(9 * document["prospects"][0]["cost"])
    assert document["weights"] == {"money": 0, "time": 0, "strong": 0, "gpu": 0}
    await gateway.chat()
    document = (await gateway.client.post("/v1/route", json=body)).json()
    assert document["weights"]["money"] > 0


async def test_answers_teach_what_the_next_ones_cost(gateway: Gateway) -> None:
    """From the tokens that the engine has counted."""
    use(gateway, 0.6, 0.9, objective="cost")
    usage = b'{"usage":{"prompt_tokens":5,"completion_tokens":1000}}'
    gateway.strong.answer = FakeAnswer([usage])
    body = BODIES["/v1/chat/completions"]
    before = (await gateway.client.post("/v1/route", json=body)).json()["prospects"]
    await gateway.chat()
    for record in gateway.recorder.records:
        gateway.pipeline.settle(record)
    after = (await gateway.client.post("/v1/route", json=body)).json()["prospects"]
    assert after[0]["cost"] == before[0]["cost"]
    assert after[1]["cost"] == pytest.approx(9e-6 * 1000, rel=0.02)


@pytest.mark.parametrize(
    ("objectives", "status"), [(None, 200), (["cost"], 200), (["weighted"], 403), ([], 403)]
)
async def test_a_role_may_be_allowed_some_objectives(
    objectives: list[str] | None, status: int
) -> None:
    """Without the right to override none counts, whatever the list says."""
    some: dict[str, Any] = {"overrides": True, "objectives": objectives}
    gateway = build_guarded({"roles": ROLES | {"some": some, "plain": {"objectives": ["cost"]}}})
    gateway.pipeline.scorer = FakeScorer(0.1, HEADS, (0.6, 0.9))
    access = gateway.pipeline.runtime.access
    prices = RuntimeConfig.model_validate({"prices": {"tiers": PRICES}})
    gateway.pipeline.runtime = prices.model_copy(update={"access": access})
    for role, expected in (("some", status), ("plain", 403)):
        response = await gateway.chat(role, headers={HEADER: "cost"})
        assert response.status_code == expected
