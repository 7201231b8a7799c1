"""The config of callers' limits: what is wrong is named."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.config.app import check_runtime
from serve_app.config.explain import explain_validation
from serve_app.config.limits import LimitRuleConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig

RULE = {"per": "tenant", "requests_per_min": 1}
STORE = {"redis": {"url": "redis://127.0.0.1:6390/0"}}
TIERS = (TierConfig(name="fast", model_id="m"),)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"rules": [{**RULE, "request_per_min": 1}]}, "did you mean 'requests_per_min'?"),
        ({"rules": [{"per": "team", "requests_per_min": 1}]}, "'key', 'user' or 'tenant'"),
        (
            {"rules": [{**RULE, "overrides": {"acme": {"token_per_min": 1}}}]},
            "overrides.acme.token_per_min: unknown key; did you mean 'tokens_per_min'?",
        ),
        ({"rules": [{"per": "tenant"}], "store": STORE}, "the rule sets no limit"),
        ({"rules": [RULE]}, "the counters need a place"),
        ({"rules": [RULE, RULE], "store": STORE}, "two rules are per tenant; write one"),
        ({"store": {}}, "set either `redis`, or `directory`"),
        ({"store": {**STORE, "directory": "/x"}}, "set either `redis`, or `directory`"),
        ({"store": {"directory": "x"}}, "'x' is relative"),
        ({"store": {"redis": {"url": "http://x"}}}, "limits.store.redis.url"),
        ({"store": {"redis": {"url": "redis://x:99999999"}}}, "write redis://HOST:PORT/NUMBER"),
    ],
)
def test_a_wrong_key_is_named(limits: dict[str, object], said: str) -> None:
    """With what to write instead."""
    with pytest.raises(ValidationError) as error:
        RuntimeConfig.model_validate({"limits": limits})
    assert said in explain_validation(error.value)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    """A config is read by more people than a password file."""
    limits = {"store": {"redis": {"url": "redis://user:hunter2@redis:6379/0"}}}
    with pytest.raises(ValidationError) as error:
        RuntimeConfig.model_validate({"limits": limits})
    said = explain_validation(error.value)
    assert "write password: {file: ...}" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({**RULE, "tier": "fsat"}, "limits.rules.0.tier: 'fsat' is none of the tiers fast"),
        ({"per": "tenant", "money_per_day": 5}, "limits.rules.0: a limit in money needs `prices`"),
        (
            {**RULE, "overrides": {"acme": {"money_per_day": 5}}},
            "limits.rules.0: a limit in money needs `prices`",
        ),
    ],
)
def test_a_rule_names_what_exists(rule: dict[str, object], said: str) -> None:
    """Tiers, and prices for money."""
    runtime = RuntimeConfig.model_validate({"limits": {"rules": [rule], "store": STORE}})
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        check_runtime(runtime, TIERS)


def test_an_override_replaces_single_limits() -> None:
    """What it leaves out stays, and null removes a limit."""
    rule = LimitRuleConfig.model_validate(
        {
            **RULE,
            "tokens_per_day": 9,
            "overrides": {"a": {"tokens_per_day": 5}, "b": {"requests_per_min": None}},
        }
    )
    assert rule.amounts_of("a") == {"requests_per_min": 1, "tokens_per_day": 5}
    assert rule.amounts_of("b") == {"tokens_per_day": 9}
    assert rule.amounts_of("c") == {"requests_per_min": 1, "tokens_per_day": 9}
