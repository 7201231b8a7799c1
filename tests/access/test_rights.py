"""The rights of roles, alone and together."""

from __future__ import annotations

import pytest

from serve_app.access.rights import NOTHING, build_rights, merge_rights, narrow_tiers, resolve_role
from serve_app.config.access import RoleConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.caller import EVERYTHING, Priority, Rights

TIERS = (
    TierConfig(name="fast", model_id="m-fast", adapters={"hr": "/a/hr", "law": "/a/law"}),
    TierConfig(name="strong", model_id="m-strong", adapters={"tax": "/a/tax"}),
)


def names_of(rights: Rights) -> dict[str, tuple[str, ...]]:
    tiers = narrow_tiers(TIERS, rights.tiers, rights.models)
    return {tier.name: tier.model_ids for tier in tiers}


FAST = ("m-fast", "hr", "law")
STRONG = ("m-strong", "tax")


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ({}, {"fast": FAST, "strong": STRONG}),
        ({"tiers": ["fast"]}, {"fast": FAST}),
        ({"tiers": []}, {}),
        ({"models": ["m-strong"]}, {"strong": STRONG}),
        ({"models": ["m-strong"], "tiers": ["fast"]}, {}),
        ({"adapters": []}, {"fast": ("m-fast",), "strong": ("m-strong",)}),
        ({"adapters": ["law"]}, {"fast": ("m-fast", "law"), "strong": ("m-strong",)}),
        ({"models": ["m-fast"], "adapters": ["tax"]}, {"fast": ("m-fast",), "strong": ("tax",)}),
        ({"models": [], "adapters": ["law"]}, {"fast": ("law",)}),
        ({"models": [], "adapters": ["hr", "law"]}, {"fast": ("hr", "law")}),
        ({"models": []}, {}),
    ],
)
def test_a_role_sees_its_tiers_models_and_adapters(
    role: dict[str, object], names: dict[str, tuple[str, ...]]
) -> None:
    """Adapters come with their model, unless the role names them."""
    assert names_of(resolve_role(RoleConfig.model_validate(role), TIERS)) == names


def test_two_roles_do_not_multiply() -> None:
    """All models of one tier and one of another are not all models of both."""
    roles = {
        "a": RoleConfig(tiers=("fast",)),
        "b": RoleConfig(models=("m-strong",), adapters=()),
    }
    rights = build_rights(roles, TIERS)(("a", "b"))
    assert names_of(rights) == {"fast": FAST, "strong": ("m-strong",)}


def test_unknown_roles_give_nothing() -> None:
    """Neither do no roles; a known role beside them counts."""
    rights_of = build_rights({"user": RoleConfig()}, TIERS)
    assert rights_of(()) == rights_of(("gone",)) == NOTHING
    assert rights_of(("gone", "user")) == rights_of(("user",))
    assert rights_of(("user", "gone")) is rights_of(("gone", "user"))


def test_the_widest_scope_of_all_roles_counts() -> None:
    """A role without a limit lifts the limit of another."""
    narrow = Rights(
        endpoints=frozenset({"/a"}),
        overrides=False,
        output_tokens_max=10,
        priority=Priority.BATCH,
        feedback=False,
    )
    other = Rights(endpoints=frozenset({"/b"}), overrides=False, output_tokens_max=20)
    merged = merge_rights([narrow, other])
    assert merged.endpoints == {"/a", "/b"}
    assert (merged.output_tokens_max, merged.overrides) == (20, False)
    assert (merged.priority, merged.feedback) == (Priority.INTERACTIVE, True)
    assert merge_rights([narrow, EVERYTHING]) == EVERYTHING
    assert merge_rights([narrow]) == narrow


def test_a_role_that_may_use_everything_costs_nothing() -> None:
    """Its callers see the tiers of the config themselves."""
    rights = resolve_role(RoleConfig(models=("m-fast", "m-strong")), TIERS)
    assert (rights.tiers, rights.models) == (None, None)


def test_the_defaults_of_a_role_grant_no_special_right() -> None:
    """Neither overrides nor admin pages."""
    rights = resolve_role(RoleConfig(), TIERS)
    assert (rights.overrides, rights.admin, rights.feedback) == (False, False, True)
