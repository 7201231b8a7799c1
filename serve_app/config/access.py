"""Who may call, and what each caller may do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from serve_app.config.base import Config
from serve_app.config.certificates import CertificatesConfig
from serve_app.config.jwt import TENANT_PATTERN, JwtConfig
from serve_app.config.keys import KeysConfig
from serve_app.config.tiers import NAME_PATTERN, TierConfig
from serve_app.core.call import Endpoint, Objective
from serve_app.core.caller import Priority

USER_ROLE = "user"
ROLE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$"

TierName = Annotated[str, Field(pattern=NAME_PATTERN)]
ModelId = Annotated[str, Field(min_length=1, max_length=200)]
RoleName = Annotated[str, Field(pattern=ROLE_PATTERN)]


def _parse_network(value: object) -> IPv4Network | IPv6Network:
    """The network of a text, or the single address as a network."""
    try:
        # `ip_network` also takes numbers.
        return ip_network(str(value).strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"'{value}' is no IP address or network, for example 10.0.0.0/8 or 2001:db8::/32"
        ) from None


Network = Annotated[
    IPv4Network | IPv6Network, BeforeValidator(_parse_network), PlainSerializer(str)
]


class RoleConfig(Config):
    """What the callers of a role may do."""

    endpoints: tuple[Endpoint, ...] | None = Field(
        None, description="Paths that the role may call. None: every path."
    )
    tiers: tuple[TierName, ...] | None = Field(
        None, description="Tiers that the role may use. None: every tier."
    )
    models: tuple[ModelId, ...] | None = Field(
        None,
        description="Ids of the tiers' models that the role may use, within `tiers`. None: every "
        "model of these tiers.",
    )
    adapters: tuple[ModelId, ...] | None = Field(
        None,
        description="Adapters that the role may use, within `tiers`. None: every adapter of the "
        "models that the role may use. An adapter that is named here may be used without its "
        "model.",
    )
    overrides: bool = Field(
        False,
        description="Whether the role may send the headers `x-route-tier`, `x-route-policy`, "
        "`x-route-never-below`, `x-route-never-above` and `x-route-objective`.",
    )
    objectives: tuple[Objective, ...] | None = Field(
        None,
        description="Values of `x-route-objective` that the role may send, with `overrides`. None: "
        "every one that the service offers.",
    )
    output_tokens_max: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="The most tokens that the role may ask for in one answer; with `n`, in each of "
        "its choices. A call that sets no limit gets this limit. None: no limit of the role.",
    )
    priority: Priority = Field(
        Priority.INTERACTIVE,
        description="Class of service of the role's waiting calls: interactive goes before batch.",
    )
    feedback: bool = Field(True, description="Whether the role may send `/v1/feedback`.")
    dashboard: bool = Field(
        False,
        description="Whether the role may watch `/dashboard`, which shows the traffic of all "
        "callers in numbers. A role with `admin` may too.",
    )
    admin: bool = Field(
        False, description="Whether the role may read `/admin/...`, which shows the whole config."
    )


class AnonymousConfig(Config):
    """The caller of requests that bring neither a key nor a token."""

    tenant: Annotated[str, Field(pattern=TENANT_PATTERN)] = Field(
        "anonymous", description="The tenant of such requests, for limits and the audit log."
    )
    roles: tuple[RoleName, ...] = Field(min_length=1, description="The roles of such requests.")


class AddressesConfig(Config):
    """From where clients may call."""

    allow: tuple[Network, ...] | None = Field(
        None,
        description="Addresses and networks (CIDR, IPv4 or IPv6) from which clients may call. "
        "None: all.",
    )
    deny: tuple[Network, ...] = Field(
        (), description="Addresses and networks that may not call, even if `allow` has them."
    )
    trusted_proxies: tuple[Network, ...] = Field(
        tuple(ip_network(network) for network in ("127.0.0.0/8", "::1/128")),
        description="Addresses of the proxies in front of the Routers: the nodes, whose HAProxy "
        "passes calls on, and every load balancer that sets `x-forwarded-for`. Only these may say "
        "for which client they speak.",
    )

    @property
    def restricts(self) -> bool:
        """Whether any client may be refused for its address."""
        return self.allow is not None or bool(self.deny)

    @property
    def trusts_loopback_only(self) -> bool:
        """Whether no proxy on another machine is trusted."""
        return all(network.is_loopback for network in self.trusted_proxies)


def _default_roles() -> dict[str, RoleConfig]:
    return {USER_ROLE: RoleConfig(), "admin": RoleConfig(overrides=True, admin=True)}


class AccessConfig(Config):
    """Who may call, and what each caller may do."""

    keys: KeysConfig | None = Field(None, description="API keys. None: no key is valid.")
    jwt: JwtConfig | None = Field(None, description="JSON Web Tokens. None: no token is valid.")
    certificates: CertificatesConfig | None = Field(
        None,
        description="Client certificates, for requests without a key and a token. None: a "
        "certificate says nothing of the caller.",
    )
    roles: dict[RoleName, RoleConfig] = Field(
        default_factory=_default_roles,
        description="What each role may do; keys and tokens name roles. A caller with several "
        "roles may do what any of them allows, each scope taken by itself. Without this key there "
        "are `user`, which may use every model, and `admin`, which may also use overrides and read "
        "`/admin`.",
    )
    given_default_roles: tuple[RoleName, ...] | None = Field(
        None,
        alias="default_roles",
        description="Roles of keys and tokens that name no role. None: `user`, if there is such a "
        "role.",
    )
    anonymous: AnonymousConfig | None = Field(
        None,
        description="The caller of requests without a key, a token or a certificate. None: they "
        "get 401.",
    )
    addresses: AddressesConfig = Field(default_factory=AddressesConfig)

    @property
    def default_roles(self) -> tuple[str, ...]:
        """The roles in effect for a proof that names none."""
        if self.given_default_roles is not None:
            return self.given_default_roles
        return (USER_ROLE,) if USER_ROLE in self.roles else ()

    @model_validator(mode="after")
    def _usable(self) -> AccessConfig:
        if not (self.keys or self.jwt or self.certificates or self.anonymous):
            raise ValueError(
                "set keys, jwt, certificates or anonymous; otherwise nobody could call"
            )
        named = {"default_roles": self.given_default_roles or ()}
        if self.anonymous is not None:
            named["anonymous.roles"] = self.anonymous.roles
        if self.certificates is not None:
            named["certificates.roles_default"] = self.certificates.roles_default
            for number, rule in enumerate(self.certificates.rules):
                named[f"certificates.rules.{number}.roles"] = rule.roles or ()
        for key, roles in named.items():
            _check_names(key, roles, self.roles, "roles")
        return self


def check_access(access: AccessConfig, tiers: Sequence[TierConfig]) -> None:
    """Check the part of the config that names tiers, models and adapters.

    Raises:
        ValueError: a role names one that does not exist.
    """
    known: Mapping[str, list[str]] = {
        "tiers": [tier.name for tier in tiers],
        "models": [tier.model_id for tier in tiers],
        "adapters": [name for tier in tiers for name in tier.adapters],
    }
    for name, role in access.roles.items():
        for scope, values in known.items():
            given: Iterable[str] = getattr(role, scope) or ()
            _check_names(f"access.roles.{name}.{scope}", given, values, scope)


def _check_names(key: str, given: Iterable[str], known: Iterable[str], kind: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{key}: '{name}' is none of the {kind}{''.join(_hint(name, known))}")


def _hint(name: str, known: Iterable[str]) -> Iterator[str]:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        yield f"; did you mean '{near[0]}'?"
    else:
        yield f": {', '.join(names) or 'there are none'}"
