"""The pages of admins, and that no secret is on them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr

from serve_app.config.app import AppConfig
from serve_app.config.joint import JointPolicyConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Record, Route
from serve_app.core.caller import Caller
from serve_app.gateway.admin import HIDDEN, SECRET_NAME, render_config
from tests.gateway.conftest import Gateway
from tests.gateway.with_access import build_guarded

PAGES = ("/admin/state", "/admin/limits", "/admin/keys", "/admin/config")
PLANTED = "s3cr3t-planted"


@dataclass(frozen=True, slots=True)
class Use:
    limit: str
    used: int


class FakeLimiter:
    """A limiter that shows its limits."""

    def start(self) -> None: ...

    async def close(self) -> None: ...

    async def reserve(self, call: Call, record: Record, route: Route) -> Any: ...

    async def describe(self, caller: Caller) -> Sequence[Use]:
        return [Use(f"{caller.tenant}/{caller.key_id}/{caller.user}", 3)]


@pytest.mark.parametrize("path", PAGES)
async def test_without_access_there_are_no_admin_pages(gateway: Gateway, path: str) -> None:
    """Nobody could show that they may read them."""
    response = await gateway.client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["message"] == f"Unknown request URL: GET {path}."


async def test_the_state_of_a_router() -> None:
    """Its calls, its tiers and their load."""
    response = await build_guarded().ask("admin", "GET", "/admin/state")
    state = response.json()
    assert response.headers["cache-control"] == "no-store"
    assert (state["object"], state["calls"], state["control"]) == ("admin.state", 0, None)
    assert [tier["name"] for tier in state["tiers"]] == ["fast"]
    assert state["load"].keys() == state["wanted"].keys() == {"fast", "strong"}


async def test_the_limits_of_a_caller() -> None:
    """Those of the caller that the query names, otherwise of the admin."""
    gateway = build_guarded(limiter=FakeLimiter())
    own = (await gateway.ask("admin", "GET", "/admin/limits")).json()
    assert own["limits"] == [{"limit": "acme/admin/ann", "used": 3}]
    query = "?tenant=other&key_id=k1"
    other = (await gateway.ask("admin", "GET", f"/admin/limits{query}")).json()
    assert other["limits"] == [{"limit": "other/k1/None", "used": 3}]
    assert (other["tenant"], other["key_id"], other["user"]) == ("other", "k1", None)


async def test_keys_are_listed_where_they_can_be() -> None:
    """404 where the source of keys cannot list them."""
    gateway = build_guarded()
    listed = (await gateway.ask("admin", "GET", "/admin/keys")).json()
    assert {"key_id": "admin"} in listed["data"]


TIER = {
    "name": "fast",
    "model_id": "m-fast",
    "model_source": f"s3://user:{PLANTED}@bucket/model",
    "engine": {"hf_token": PLANTED, "max_model_len": 4096, "api_key": [PLANTED]},
    "env": {"HF_TOKEN": PLANTED, "AWS_SECRET_ACCESS_KEY": PLANTED},
}


async def test_the_config_is_shown_without_its_secrets() -> None:
    """Values of environment variables, secret engine arguments and passwords of addresses too."""
    tiers = (TierConfig.model_validate(TIER), TierConfig(name="strong", model_id="m-strong"))
    access = {"roles": {"admin": {"admin": True}, "none": {}}}
    response = await build_guarded(access, tiers=tiers).ask("admin", "GET", "/admin/config")
    assert PLANTED not in response.text
    shown = response.json()
    fast = shown["tiers"][0]
    assert fast["engine"] == {"hf_token": HIDDEN, "max_model_len": 4096, "api_key": [HIDDEN]}
    assert fast["env"] == {"HF_TOKEN": HIDDEN, "AWS_SECRET_ACCESS_KEY": HIDDEN}
    assert fast["model_source"] == f"s3://{HIDDEN}@bucket/model"
    assert shown["runtime"]["access"]["roles"]["admin"]["admin"] is True
    assert shown["runtime"]["limits"]["body_bytes_max"] is None


async def test_no_page_shows_what_is_planted_anywhere() -> None:
    """Every text of the config that names no tier, model or place of a secret is planted."""
    keys = {"file": "/keys.db", "pepper": {"variable": "PEPPER"}}
    access = {"keys": keys, "roles": {"admin": {"admin": True}, "none": {}}}
    gateway = build_guarded(access, tiers=(TierConfig.model_validate(TIER),))
    for path in PAGES:
        response = await gateway.ask("admin", "GET", path)
        assert PLANTED not in response.text
    assert "PEPPER" in (await gateway.ask("admin", "GET", "/admin/config")).text


class Nested(BaseModel):
    """A config with the hiding type of pydantic."""

    webhook: SecretStr


def test_secret_fields_hide_themselves() -> None:
    """Whatever their name."""
    assert PLANTED not in str(render_config(Nested(webhook=SecretStr(PLANTED))))


def list_models(model: Any) -> Iterator[type[BaseModel]]:
    """The config models below an annotation."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        yield model
        for field in model.model_fields.values():
            yield from list_models(field.annotation)
    else:
        for item in get_args(model):
            yield from list_models(item)


def is_text(annotation: Any) -> bool:
    """Whether a value may be plain text."""
    if annotation is str:
        return True
    if isinstance(annotation, types.UnionType):
        return any(is_text(item) for item in get_args(annotation))
    return False


def test_no_field_of_a_config_is_a_secret_in_plain_text() -> None:
    """A secret stands in a file, in an environment variable or in a SecretStr field."""
    models = {m for top in (AppConfig, RuntimeConfig, JointPolicyConfig) for m in list_models(top)}
    named = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if SECRET_NAME.search(name) and is_text(field.annotation)
    ]
    assert not named
    assert len(models) > 20
    assert re.search(SECRET_NAME, "redis_password")
