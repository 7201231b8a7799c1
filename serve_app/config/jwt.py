"""The config of JSON Web Tokens."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from serve_app.config.base import Config
from serve_app.config.secret import AbsolutePath, SecretConfig
from serve_app.config.tiers import DAY_S, HOUR_S

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip
LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))
TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$"

Tenant = Annotated[str, Field(pattern=TENANT_PATTERN)]
ClaimPath = Annotated[str, Field(min_length=1, max_length=256)]
Role = Annotated[str, Field(min_length=1, max_length=128)]


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("must begin with https:// (http:// on a loopback address only)")
    if parts.hostname is None or parts.password is not None:
        raise ValueError("must name a host and no password")
    return url


class ClaimsConfig(Config):
    """Which claims of a token say who asks."""

    tenant: ClaimPath | None = Field(
        None,
        description="Claim with the tenant; dots lead into objects (`org.name`). None: "
        "`tenant_default`.",
    )
    user: ClaimPath | None = Field(
        "sub", description="Claim with the user. None, or a token without it: no user."
    )
    roles: ClaimPath | None = Field(
        None,
        description="Claim with the roles: a list of texts, or a text with spaces between the "
        "roles. None: `roles_default`.",
    )


class IssuerConfig(Config):
    """An issuer of tokens that is trusted, and how far."""

    issuer: str = Field(
        min_length=1, max_length=512, description="The claim `iss` of its tokens, letter by letter."
    )
    audiences: tuple[str, ...] = Field(
        min_length=1, description="A token is for this service if its claim `aud` has one of these."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256",),
        min_length=1,
        description="The algorithms that its tokens may be signed with. HS256, HS384 and HS512 "
        "need `secret`, all others `jwks_url`.",
    )
    jwks_url: Annotated[str, AfterValidator(_check_url)] | None = Field(
        None, description="HTTPS address of its public keys (JWKS)."
    )
    ca_file: AbsolutePath | None = Field(
        None,
        description="Certificates that may sign the certificate of `jwks_url`. None: the usual "
        "authorities.",
    )
    secret: SecretConfig | None = Field(
        None,
        description="The shared secret of HS256, HS384 and HS512, of at least 32 bytes; for tests.",
    )
    claims: ClaimsConfig = Field(default_factory=ClaimsConfig)
    tenant_default: Tenant | None = Field(
        None, description="Tenant of a token without the claim. None: such a token is refused."
    )
    tenants_allowed: tuple[Tenant, ...] | None = Field(
        None, description="The tenants that its tokens may name. None: all."
    )
    roles_default: tuple[Role, ...] = Field((), description="Roles of a token without the claim.")

    @model_validator(mode="after")
    def _consistent(self) -> IssuerConfig:
        if (self.jwks_url is None) == (self.secret is None):
            raise ValueError("set either jwks_url or secret")
        shared = {name.startswith("HS") for name in self.algorithms}
        if shared != {self.secret is not None}:
            raise ValueError(
                "algorithms: HS256, HS384 and HS512 go with secret, others with jwks_url"
            )
        if self.claims.tenant is None and self.tenant_default is None:
            raise ValueError("set claims.tenant or tenant_default")
        return self


class JwtConfig(Config):
    """Which tokens are taken."""

    issuers: tuple[IssuerConfig, ...] = Field(min_length=1, description="The trusted issuers.")
    skew_s: float = Field(
        30.0,
        ge=0,
        le=300,
        description="How far the clocks of an issuer and of this service may differ.",
    )
    token_bytes_max: int = Field(
        8192, ge=256, le=65_536, description="Longer tokens are refused before they are read."
    )
    fetch_s: float = Field(
        5.0, gt=0, le=60, description="Time that one fetch of an issuer's keys may take."
    )
    refresh_s: float = Field(
        300.0, ge=1, le=DAY_S, description="Time between two fetches of an issuer's keys."
    )
    refetch_min_s: float = Field(
        10.0,
        ge=0.1,
        le=HOUR_S,
        description="Least time between two fetches: after a failure, and for tokens that name an "
        "unknown key.",
    )
    stale_max_s: float = Field(
        HOUR_S,
        ge=0,
        le=7 * DAY_S,
        description="Time for which an issuer's keys stay valid after the last good fetch; then "
        "its tokens are answered with 503. Must not be shorter than `refresh_s`.",
    )
    cached_tokens_max: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        description="Number of verified tokens that a Router remembers until they expire, so that "
        "it need not verify them again. 0: none.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> JwtConfig:
        names = [issuer.issuer for issuer in self.issuers]
        if len(names) != len(set(names)):
            raise ValueError("issuers: an issuer is there twice")
        if self.stale_max_s < self.refresh_s + self.fetch_s:
            raise ValueError("stale_max_s must be at least refresh_s + fetch_s")
        return self
