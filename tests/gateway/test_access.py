"""What callers with some roles get from the gateway."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from serve_app.config.tiers import TierConfig
from serve_app.core.caller import Credentials
from serve_app.core.errors import AccessUnavailable
from tests.fakes import FakeAnswer, FakeTier
from tests.gateway.test_access_matrix import BODIES, ENGINE_ANSWER
from tests.gateway.with_access import ENGINE, ROLES, Guarded, build_guarded

GENERATING = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}


def sent(tier: FakeTier) -> dict[str, Any]:
    """The body that the newest call sent to a tier."""
    body: dict[str, Any] = json.loads(tier.requests[-1]._body)
    return body


async def list_models(gateway: Guarded, role: str) -> list[str]:
    listed = (await gateway.ask(role, "GET", "/v1/models")).json()
    return [model["id"] for model in listed["data"]]


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("user", ["auto", "fast", "strong", "m-fast", "hr", "m-strong"]),
        ("fast", ["auto", "fast", "m-fast"]),
        ("hr", ["auto", "fast", "hr"]),
    ],
)
async def test_models_are_those_of_the_caller(role: str, names: list[str]) -> None:
    """The page of a model that is not listed is 404."""
    gateway = build_guarded()
    assert await list_models(gateway, role) == names
    for name in ("m-fast", "strong", "m-strong", "hr"):
        response = await gateway.ask(role, "GET", f"/v1/models/{name}")
        assert response.status_code == (200 if name in names else 404)


@pytest.mark.parametrize("model", ["strong", "m-strong", "hr", "no-such-model"])
@pytest.mark.parametrize("path", [*BODIES, "/v1/route"])
async def test_a_model_that_the_caller_may_not_use_does_not_exist(path: str, model: str) -> None:
    """On every endpoint, with the answer that a name which nobody has gets."""
    gateway = build_guarded()
    body = {**BODIES.get(path, BODIES["/v1/chat/completions"]), "model": model}
    response = await gateway.ask("fast", "POST", path, json=body)
    assert response.status_code == 404
    assert response.json()["error"]["message"] == (
        f"The model '{model}' does not exist. GET /v1/models lists the models that do."
    )
    assert not gateway.strong.requests


@pytest.mark.parametrize(
    ("role", "tier", "model"),
    [("fast", "fast", "m-fast"), ("hr", "fast", "hr")],
)
@pytest.mark.parametrize(
    "routing",
    [
        {},
        {"strong_score_min": 0},
        {"default_tier": "strong"},
        {"never_below": "strong"},
        {"never_below": "strong", "never_above": "strong"},
        {"policy": "cascade"},
        {"fast_prompt_tokens_max": 1},
    ],
)
@pytest.mark.parametrize("path", GENERATING)
async def test_auto_never_chooses_it(
    path: str, routing: dict[str, Any], role: str, tier: str, model: str
) -> None:
    """Whatever the rules of routing prefer: rights are narrower than they."""
    gateway = build_guarded(routing=routing)
    body = {key: value for key, value in BODIES[path].items() if key != "max_tokens"}
    response = await gateway.ask(role, "POST", path, json=body)
    assert response.status_code == 200
    assert (response.headers["x-route-tier"], response.headers["x-route-model"]) == (tier, model)
    assert sent(gateway.fast)["model"] == model
    assert not gateway.strong.requests


async def test_a_tier_that_is_down_is_not_replaced_by_a_hidden_one() -> None:
    """The caller waits for its own tiers."""
    gateway = build_guarded()
    gateway.fast.answer = AccessUnavailable(1)  # any error: no exchange
    response = await gateway.chat("fast")
    assert response.status_code == 503
    assert not gateway.strong.requests


@pytest.mark.parametrize(
    ("routing", "tier"),
    [
        ({"never_below": "mid"}, "big"),
        ({"never_above": "mid", "strong_score_min": 0}, "small"),
        ({"never_below": "mid", "never_above": "mid"}, "small"),
        ({"never_below": "big"}, "big"),
        ({"never_above": "small", "strong_score_min": 0}, "small"),
    ],
)
async def test_limits_move_to_the_nearest_tier_of_the_caller(
    routing: dict[str, Any], tier: str
) -> None:
    """A limit that names a tier which the caller may not use still holds on its side."""
    tiers = tuple(TierConfig(name=name, model_id=f"m-{name}") for name in ("small", "mid", "big"))
    roles = {"ends": {"tiers": ["small", "big"]}, "none": {}}
    gateway = build_guarded({"roles": roles}, tiers=tiers, routing=routing)
    document = (await gateway.ask("ends", "POST", "/v1/route", json={"prompt": "Hi"})).json()
    assert document["tier"] == tier
    assert "mid" not in json.dumps(document)


@pytest.mark.parametrize(
    "header",
    [
        {"x-route-tier": "fast"},
        {"x-route-tier": "auto"},
        {"x-route-policy": "cascade"},
        {"x-route-never-below": "fast"},
        {"x-route-never-above": "fast"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/route"])
async def test_overrides_need_the_right(path: str, header: dict[str, str]) -> None:
    """Without it a call with such a header is refused, not answered as if it had none."""
    gateway = build_guarded()
    body = BODIES["/v1/messages"]
    refused = await gateway.ask("user", "POST", path, json=body, headers=header)
    assert refused.status_code == 403
    assert "x-route-*" in refused.json()["error"]["message"]
    assert (await gateway.ask("all", "POST", path, json=body, headers=header)).status_code == 200


@pytest.mark.parametrize("header", ["x-route-tier", "x-route-never-below", "x-route-never-above"])
async def test_an_override_tells_nothing_of_hidden_tiers(header: str) -> None:
    """A tier that the caller may not use is refused as one that does not exist."""
    roles = {"fast": {"tiers": ["fast"], "overrides": True}, "none": {}}
    gateway = build_guarded({"roles": roles})
    for name in ("strong", "no-such-tier"):
        response = await gateway.chat("fast", headers={header: name})
        assert response.status_code == 400
        assert "strong" not in response.text


@pytest.mark.parametrize(("path", "field"), GENERATING.items())
async def test_a_call_without_a_limit_of_output_gets_the_cap(path: str, field: str) -> None:
    """In the field of the endpoint; other callers' bodies are not touched."""
    gateway = build_guarded()
    body = {key: value for key, value in BODIES[path].items() if key != "max_tokens"}
    for given in ({}, {field: None}):
        await gateway.ask("fast", "POST", path, json={**body, **given})
        assert sent(gateway.fast)[field] == 100
    await gateway.ask("user", "POST", path, json={**body, "model": "fast"})
    assert field not in sent(gateway.fast)


@pytest.mark.parametrize("value", [101, "99", "5000", 99.0, 1e9, True, -1, [], {}])
@pytest.mark.parametrize(
    ("path", "field"), [*GENERATING.items(), ("/v1/chat/completions", "max_tokens")]
)
async def test_more_output_than_the_cap_is_refused(path: str, field: str, value: object) -> None:
    """The error names the field and the cap; no form of a number slips through."""
    gateway = build_guarded()
    response = await gateway.ask("fast", "POST", path, json={**BODIES[path], field: value})
    assert response.status_code == 400
    assert f"'{field}'" in response.json()["error"]["message"]
    assert "100" in response.json()["error"]["message"]
    assert not gateway.fast.requests


@pytest.mark.parametrize(("path", "field"), GENERATING.items())
async def test_output_within_the_cap_passes_as_it_is(path: str, field: str) -> None:
    """Up to the cap itself."""
    gateway = build_guarded()
    for value in (1, 100):
        await gateway.ask("fast", "POST", path, json={**BODIES[path], field: value})
        assert sent(gateway.fast)[field] == value


async def test_both_limits_of_a_chat_are_checked() -> None:
    """vLLM obeys `max_completion_tokens`, and `max_tokens` without it."""
    gateway = build_guarded()
    refused = await gateway.chat("fast", max_completion_tokens=5, max_tokens=5000)
    assert refused.status_code == 400
    await gateway.chat("fast", max_completion_tokens=None, max_tokens=7)
    assert "max_completion_tokens" not in {k for k, v in sent(gateway.fast).items() if v}


@pytest.mark.parametrize(
    ("chars", "cap"), [(100, 1000), (12_000, None), (14_000, 256), (1_000_000, 256)]
)
async def test_the_cap_leaves_room_for_the_prompt(chars: int, cap: int | None) -> None:
    """vLLM refuses a prompt and a limit that do not fit together, but not a prompt alone."""
    roles = {"fast": {"tiers": ["fast"], "output_tokens_max": 1000}, "none": {}}
    gateway = build_guarded({"roles": roles})
    await gateway.chat("fast", messages=[{"role": "user", "content": "a" * chars}])
    written = sent(gateway.fast)["max_completion_tokens"]
    assert written == cap if cap else 600 < written < 1000


async def test_the_right_to_count_tokens_is_no_right_to_tokenize() -> None:
    """`/v1/responses/input_tokens` is answered by the engine's `/tokenize`."""
    gateway = build_guarded()
    gateway.fast.answer = FakeAnswer([ENGINE_ANSWER])
    counted = await gateway.ask(
        "counter", "POST", "/v1/responses/input_tokens", json={"input": "Hi"}
    )
    assert counted.status_code == 200
    assert (
        await gateway.ask("counter", "POST", "/tokenize", json={"prompt": "Hi"})
    ).status_code == 403


async def test_a_forbidden_path_is_refused_before_its_body_comes() -> None:
    """So is a client without a key: neither can make a Router read."""
    for role, status in ((None, 401), ("counter", 403)):
        gateway = build_guarded()
        asked = asyncio.Event()

        async def body(asked: asyncio.Event = asked) -> Any:
            asked.set()
            yield b"{"

        headers = {"content-type": "application/json"}
        response = await gateway.ask(
            role, "POST", "/v1/chat/completions", content=body(), headers=headers
        )
        assert (response.status_code, asked.is_set()) == (status, False)
        assert gateway.recorder.records[0].status == status


async def test_the_record_names_the_caller() -> None:
    """For limits, metrics and the audit log."""
    gateway = build_guarded()
    await gateway.chat("user")
    caller = gateway.recorder.records[0].caller
    assert (caller.tenant, caller.key_id, caller.user, caller.roles) == (
        "acme", "user", "ann", ("user",),
    )  # fmt: skip
    assert caller.address == "127.0.0.1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_a_source_of_keys_that_is_gone_is_no_open_door(path: str) -> None:
    """503 with the time to come back; an unforeseen fault is a plain 500."""
    gateway = build_guarded()
    method = "GET" if path == "/v1/models" else "POST"
    gateway.identifier.error = AccessUnavailable(7)
    response = await gateway.ask("user", method, path)
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    gateway.identifier.error = RuntimeError("sk-secret")
    response = await gateway.ask("user", method, path)
    assert response.status_code == 500
    assert "sk-secret" not in response.text


async def test_no_log_and_no_record_holds_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """Whether the key is right or wrong, and also where finding the caller fails."""
    caplog.set_level(logging.DEBUG)
    gateway = build_guarded()
    planted = "sk-serve-planted"
    gateway.identifier.identities[planted] = gateway.identifier.identities["user"]
    answers = [await gateway.chat(planted), await gateway.chat(f"{planted}-wrong")]
    gateway.identifier.error = RuntimeError("the source of keys broke")
    answers.append(await gateway.chat(planted))
    answers.append(await gateway.ask(planted, "GET", "/v1/models"))
    assert [answer.status_code for answer in answers] == [200, 401, 500, 500]
    found = [caplog.text, repr(gateway.recorder.records), *(answer.text for answer in answers)]
    assert not [text for text in found if planted in text]
    assert "the source of keys broke" in caplog.text
    assert planted not in repr(Credentials(planted.encode(), planted.encode()))


async def test_open_pages_ask_for_no_keys() -> None:
    """They work while the source of keys does not, and name no tier."""
    gateway = build_guarded()
    gateway.identifier.error = RuntimeError("gone")
    for path in ("/health", "/ready", "/openapi.json"):
        assert (await gateway.ask(None, "GET", path)).status_code == 200
    assert (await gateway.ask(None, "GET", "/ready")).json() == {"ready": True, "tiers": []}
    assert gateway.identifier.asked == 0


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("user", ["fast"]),
        ("fast", ["fast"]),
        ("admin", ["fast"]),
        ("only-strong", []),
        ("none", []),
    ],
)
async def test_readiness_names_the_tiers_of_the_caller(role: str, names: list[str]) -> None:
    """An admin sees all; a wrong key is no error on an open page."""
    roles = {**ROLES, "only-strong": {"tiers": ["strong"]}}
    gateway = build_guarded({"roles": roles})
    shown = await gateway.ask(role, "GET", "/ready")
    assert (shown.status_code, [tier["name"] for tier in shown.json()["tiers"]]) == (200, names)
    assert (await gateway.ask("sk-wrong", "GET", "/ready")).json()["tiers"] == []


async def test_anonymous_callers_have_their_own_roles() -> None:
    """A wrong key is still wrong: it does not become anonymous."""
    gateway = build_guarded({"anonymous": {"tenant": "lab", "roles": ["fast"]}})
    assert (await gateway.chat(None)).status_code == 200
    assert gateway.recorder.records[0].caller.tenant == "lab"
    assert (await gateway.chat(None, model="strong")).status_code == 404
    assert (await gateway.chat("sk-wrong")).status_code == 401
    assert gateway.identifier.asked == 1


async def test_a_key_without_roles_has_the_default_roles() -> None:
    """Unknown roles are not no roles: they give no right."""
    gateway = build_guarded({"default_roles": ["fast"]})
    known = gateway.identifier.identities
    for name, roles in (("bare", ()), ("old", ("gone",))):
        known[name] = type(known["user"])("acme", key_id=name, roles=roles)
    assert await list_models(gateway, "bare") == ["auto", "fast", "m-fast"]
    assert (await gateway.chat("old")).status_code == 403


@pytest.mark.parametrize(
    ("addresses", "forwarded", "status"),
    [
        ({"deny": ["203.0.113.0/24"]}, "203.0.113.9", 403),
        ({"deny": ["203.0.113.0/24"]}, "192.0.2.1", 200),
        ({"deny": ["203.0.113.0/24"]}, "192.0.2.1, 203.0.113.9", 403),
        ({"deny": ["203.0.113.0/24"]}, "203.0.113.9, 192.0.2.1", 200),
        ({"allow": ["192.0.2.0/24"]}, "192.0.2.1", 200),
        ({"allow": ["192.0.2.0/24"]}, "unknown", 403),
        ({"allow": ["192.0.2.0/24"], "trusted_proxies": []}, "192.0.2.1", 403),
        ({"allow": ["127.0.0.1"], "trusted_proxies": []}, "203.0.113.9", 200),
    ],
)
async def test_addresses_are_checked_before_keys(
    addresses: dict[str, Any], forwarded: str, status: int
) -> None:
    """A client at a wrong address learns nothing of its key, and reads only open pages."""
    gateway = build_guarded({"addresses": addresses})
    headers = {"x-forwarded-for": forwarded}
    assert (await gateway.chat("user", headers=headers)).status_code == status
    wrong = await gateway.chat("sk-wrong", headers=headers)
    assert wrong.status_code == (status if status == 403 else 401)
    page = await gateway.ask("user", "GET", "/v1/models", headers=headers)
    assert page.status_code == status
    assert (await gateway.ask(None, "GET", "/health", headers=headers)).status_code == 200


async def test_every_line_of_forwarded_for_counts() -> None:
    """A proxy that adds a line of its own speaks last."""
    gateway = build_guarded({"addresses": {"deny": ["203.0.113.9"]}})
    lines = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "203.0.113.9")]
    key = ("authorization", "Bearer user")
    refused = await gateway.client.get("/v1/models", headers=[key, *lines])
    allowed = await gateway.client.get("/v1/models", headers=[key, *reversed(lines)])
    assert (refused.status_code, allowed.status_code) == (403, 200)


async def test_route_shows_only_what_the_caller_may_use() -> None:
    """Neither the load of other tiers nor the controller of the traffic of all."""
    gateway = build_guarded(routing={"strong_ratio_target": 0.5})
    shown = (await gateway.ask("fast", "POST", "/v1/route", json={"prompt": "Hi"})).json()
    assert (shown["load"].keys(), shown["control"], shown["others"]) == ({"fast"}, None, [])
    whole = (await gateway.ask("user", "POST", "/v1/route", json={"prompt": "Hi"})).json()
    assert whole["load"].keys() == {"fast", "strong"}
    assert whole["control"]


async def test_a_task_that_no_tier_of_the_caller_can_do_is_refused() -> None:
    """As where no tier can do it at all."""
    tiers = (
        TierConfig(name="fast", model_id="m-fast", engine=ENGINE),
        TierConfig(name="vectors", model_id="m-vectors", tasks=("embed",)),
    )
    roles = {"vectors": {"tiers": ["vectors"]}, "none": {}}
    gateway = build_guarded({"roles": roles}, tiers=tiers, routing={"never_below": "fast"})
    response = await gateway.chat("vectors")
    assert response.status_code == 400
    assert "fast" not in response.text
