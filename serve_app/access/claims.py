"""From the claims of a verified token to the caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serve_app.access.identity import Identity
from serve_app.config.jwt import TENANT_PATTERN, IssuerConfig
from serve_app.core.errors import Unauthorized

ROLES_MAX = 64
TEXT_CHARS_MAX = 256

_TENANT = re.compile(TENANT_PATTERN)
_MISSING = object()


def map_claims(claims: Mapping[str, Any], issuer: IssuerConfig) -> Identity:
    """The caller that the claims name.

    Raises:
        Unauthorized: the claims name no tenant, a tenant that the issuer may not name, or have
            values of another form than names.
    """
    return Identity(
        _map_tenant(claims, issuer),
        None,
        _map_user(claims, issuer),
        _map_roles(claims, issuer),
        float(claims["exp"]),
    )


def find_claim(claims: Mapping[str, Any], path: str) -> Any:
    """The value at a path; the whole path may also be one name, as in `https://example.com/team`."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return _MISSING
        found = found[name]
    return found


def _map_tenant(claims: Mapping[str, Any], issuer: IssuerConfig) -> str:
    path = issuer.claims.tenant
    found = _MISSING if path is None else find_claim(claims, path)
    if found is _MISSING:
        found = issuer.tenant_default
    if not isinstance(found, str) or _TENANT.fullmatch(found) is None:
        raise Unauthorized("token without a valid tenant")
    if issuer.tenants_allowed is not None and found not in issuer.tenants_allowed:
        raise Unauthorized("tenant that the issuer may not name")
    return found


def _map_user(claims: Mapping[str, Any], issuer: IssuerConfig) -> str | None:
    path = issuer.claims.user
    found = _MISSING if path is None else find_claim(claims, path)
    return None if found is _MISSING else _name(found, "user")


def _map_roles(claims: Mapping[str, Any], issuer: IssuerConfig) -> tuple[str, ...]:
    path = issuer.claims.roles
    found = _MISSING if path is None else find_claim(claims, path)
    if found is _MISSING:
        return issuer.roles_default
    roles = found.split() if isinstance(found, str) else found
    if not isinstance(roles, list) or len(roles) > ROLES_MAX:
        raise Unauthorized("token without a valid list of roles")
    return tuple(_name(role, "role") for role in roles)


def _name(value: object, what: str) -> str:
    """The value, if it is a text that logs can take."""
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_CHARS_MAX:
        raise Unauthorized(f"token without a valid {what}")
    if not value.isprintable():
        raise Unauthorized(f"token without a valid {what}")
    return value
