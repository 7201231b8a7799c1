"""The config of access, and what `serve-app check` says of a wrong one."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config.access import AccessConfig
from serve_app.config.app import AppConfig, check_runtime
from serve_app.config.explain import explain_validation
from serve_app.config.runtime import RuntimeConfig

ANONYMOUS = {"anonymous": {"roles": ["user"]}}
APP = AppConfig.model_validate(
    {
        "tiers": [
            {"name": "fast", "model_id": "m-fast", "adapters": {"hr": "/a/hr"}},
            {"name": "strong", "model_id": "m-strong"},
        ]
    }
)


def explain(access: dict[str, Any]) -> str:
    """What is said of a config; it must be wrong."""
    try:
        runtime = RuntimeConfig.model_validate({"access": access})
        check_runtime(runtime, APP.tiers)
    except ValidationError as error:
        return explain_validation(error)
    except ValueError as error:
        return str(error)
    pytest.fail("the config is valid")


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({}, "set keys, jwt, certificates or anonymous"),
        ({**ANONYMOUS, "rolls": {}}, "did you mean 'roles'?"),
        (
            {**ANONYMOUS, "roles": {"user": {"teirs": ["fast"]}}},
            "access.roles.user.teirs: unknown key; did you mean 'tiers'?",
        ),
        (
            {**ANONYMOUS, "roles": {"user": {"tiers": ["fats"]}}},
            "access.roles.user.tiers: 'fats' is none of the tiers; did you mean 'fast'?",
        ),
        (
            {**ANONYMOUS, "roles": {"user": {"models": ["m-strnog"]}}},
            "access.roles.user.models: 'm-strnog' is none of the models; did you mean 'm-strong'?",
        ),
        (
            {**ANONYMOUS, "roles": {"user": {"adapters": ["zzz"]}}},
            "access.roles.user.adapters: 'zzz' is none of the adapters: hr",
        ),
        ({"anonymous": {"roles": ["usr"]}}, "'usr' is none of the roles; did you mean 'user'?"),
        ({**ANONYMOUS, "default_roles": ["amdin"]}, "did you mean 'admin'?"),
        (
            {**ANONYMOUS, "roles": {"user": {"endpoints": ["/v1/chat"]}}},
            "expected '/v1/chat/completions'",
        ),
        ({**ANONYMOUS, "addresses": {"deny": ["10.0.0.0/33"]}}, "no IP address or network"),
        ({**ANONYMOUS, "addresses": {"allow": [10]}}, "access.addresses.allow.0: '10' is no IP"),
        ({**ANONYMOUS, "roles": {"user": {"priority": "high"}}}, "'interactive' or 'batch'"),
        ({**ANONYMOUS, "roles": {"user": {"output_tokens_max": 0}}}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_key_is_named(access: dict[str, Any], said: str) -> None:
    """With the nearest valid one, where there is one."""
    assert said in explain(access)


def test_networks_and_addresses_are_one() -> None:
    """A single address is a network; bits of the host do not count."""
    config = AccessConfig.model_validate(
        {**ANONYMOUS, "addresses": {"allow": ["192.0.2.7", "2001:db8::1/32"]}}
    )
    assert config.addresses.allow is not None
    assert [str(network) for network in config.addresses.allow] == [
        "192.0.2.7/32",
        "2001:db8::/32",
    ]
    dumped = config.model_dump(mode="json")["addresses"]
    assert dumped["allow"] == ["192.0.2.7/32", "2001:db8::/32"]
    assert dumped["trusted_proxies"] == ["127.0.0.0/8", "::1/128"]


def test_proofs_without_roles_are_users() -> None:
    """If there is such a role, and the config does not say otherwise."""
    assert AccessConfig.model_validate(ANONYMOUS).default_roles == ("user",)
    other = {"anonymous": {"roles": ["staff"]}, "roles": {"staff": {}}}
    assert AccessConfig.model_validate(other).default_roles == ()
    assert AccessConfig.model_validate({**ANONYMOUS, "default_roles": []}).default_roles == ()
