"""The config of client certificates: which callers they stand for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve_app.config.base import Config
from serve_app.config.secret import SecretConfig

TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$"
Tenant = Annotated[str, Field(pattern=TENANT_PATTERN)]
Role = Annotated[str, Field(min_length=1, max_length=128)]

NameKind = Literal["common_name", "organisation", "organisational_unit", "uri", "email", "dns"]
"""A part of a certificate: of its subject, or the first alternative name of a kind."""


class CertificateRuleConfig(Config):
    """The caller of the certificates that have a certain name."""

    kind: NameKind = Field("common_name", description="The part of the certificate to look at.")
    matches: str = Field(
        min_length=1,
        max_length=256,
        description="The name: all of it, or its beginning if this ends in `*` "
        "(`spiffe://bank.example/risk/*`).",
    )
    tenant: Tenant = Field(description="Tenant of these certificates.")
    roles: tuple[Role, ...] | None = Field(
        None, description="Roles of these certificates. None: `roles_default`."
    )


class CertificatesConfig(Config):
    """Which callers the certificates of clients stand for; HAProxy has verified them (tls.md)."""

    secret: SecretConfig = Field(
        description="The secret of at least 32 bytes that HAProxy signs certificates with: that of "
        "`SERVE_APP_TLS_HEADER_SECRET`.",
    )
    rules: tuple[CertificateRuleConfig, ...] = Field(
        (), max_length=1024, description="The first rule that fits a certificate counts."
    )
    tenant: NameKind | None = Field(
        None,
        description="The part of the certificate that names the tenant, if no rule fits. None: "
        "`tenant_default`.",
    )
    tenant_default: Tenant | None = Field(
        None, description="Tenant of all other certificates. None: they are refused."
    )
    user: NameKind | None = Field(
        "common_name",
        description="The part of the certificate that names the user. None, or a certificate "
        "without it: no user.",
    )
    roles_default: tuple[Role, ...] = Field((), description="Roles of the callers.")
    skew_s: float = Field(
        60.0,
        gt=0,
        le=600,
        description="How old what HAProxy says of a certificate may be, and how far the clocks of "
        "two nodes may differ.",
    )

    @model_validator(mode="after")
    def _names_someone(self) -> CertificatesConfig:
        if not self.rules and self.tenant is None and self.tenant_default is None:
            raise ValueError("set rules, tenant or tenant_default")
        return self
