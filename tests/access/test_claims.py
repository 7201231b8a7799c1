"""From the claims of a token to the caller."""

from __future__ import annotations

import pytest

from serve_app.access.claims import find_claim, map_claims
from serve_app.access.identity import Identity
from serve_app.config.jwt import IssuerConfig
from serve_app.core.errors import Unauthorized

CLAIMS = {
    "exp": 100,
    "sub": "ann",
    "realm_access": {"roles": ["dev", "ops"]},
    "scope": "read  write",
    "https://example.com/team": "acme",
    "org": {"name": "acme", "a.b": "dotted"},
}


def issuer(claims: dict[str, object], **values: object) -> IssuerConfig:
    return IssuerConfig.model_validate(
        {
            "issuer": "https://a",
            "audiences": ["a"],
            "jwks_url": "https://a/jwks",
            "claims": claims,
            **values,
        }
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sub", "ann"),
        ("org.name", "acme"),
        ("realm_access.roles", ["dev", "ops"]),
        ("https://example.com/team", "acme"),
    ],
)
def test_a_claim_is_found_by_its_path(path: str, value: object) -> None:
    """Dots lead into objects; a whole name with dots comes first."""
    assert find_claim(CLAIMS, path) == value


def test_claims_become_a_caller() -> None:
    """Tenant, user and roles from where the config says."""
    paths: dict[str, object] = {"tenant": "org.name", "user": "sub", "roles": "realm_access.roles"}
    expected = Identity("acme", None, "ann", ("dev", "ops"), 100)
    assert map_claims(CLAIMS, issuer(paths)) == expected
    scopes = issuer({"tenant": "https://example.com/team", "user": None, "roles": "scope"})
    assert map_claims(CLAIMS, scopes) == Identity("acme", None, None, ("read", "write"), 100)


def test_what_is_absent_comes_from_the_config() -> None:
    """A path that leads nowhere is as good as none."""
    paths: dict[str, object] = {"tenant": "org.name.first", "user": "no", "roles": "no.such"}
    config = issuer(paths, tenant_default="staff", roles_default=["dev"])
    assert map_claims(CLAIMS, config) == Identity("staff", None, None, ("dev",), 100)
    with pytest.raises(Unauthorized, match="tenant"):
        map_claims(CLAIMS, issuer(paths))


def test_a_default_does_not_replace_a_bad_value() -> None:
    """A tenant that is there and of another form is no missing tenant."""
    config = issuer({"tenant": "org"}, tenant_default="staff")
    with pytest.raises(Unauthorized, match="tenant"):
        map_claims(CLAIMS, config)


def test_an_issuer_names_only_its_tenants() -> None:
    """Also for the default."""
    paths: dict[str, object] = {"tenant": "org.name"}
    assert map_claims(CLAIMS, issuer(paths, tenants_allowed=["acme"])).tenant == "acme"
    with pytest.raises(Unauthorized, match="may not name"):
        map_claims(CLAIMS, issuer(paths, tenants_allowed=["rival"]))
