"""Who asks, as proved by a client's certificate that HAProxy has verified.

HAProxy writes the header `x-serve-app-client-certificate: TIME DER MAC`, after it has removed what
a client sent under that name: the time in seconds since 1970, the certificate in base64, and an
HMAC-SHA256 of `TIME DER` in hexadecimal, by a secret that HAProxy and the Routers share. A caller
that reaches a Router's own port and does not know the secret can therefore claim no certificate.
"""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as hmac_digest

from cryptography import x509
from cryptography.x509.oid import NameOID

from serve_app.access.identity import Identity
from serve_app.config.certificates import (
    TENANT_PATTERN,
    CertificateRuleConfig,
    CertificatesConfig,
    NameKind,
)
from serve_app.config.tls import SECRET_BYTES_MIN
from serve_app.core.errors import Unauthorized

KEPT_MAX = 1024
"""The certificates that a Router remembers; reading one anew costs a fraction of a millisecond."""
TEXT_CHARS_MAX = 256

_TENANT = re.compile(TENANT_PATTERN)
_SUBJECT = {
    "common_name": NameOID.COMMON_NAME,
    "organisation": NameOID.ORGANIZATION_NAME,
    "organisational_unit": NameOID.ORGANIZATIONAL_UNIT_NAME,
}
_ALTERNATIVE: dict[str, type[x509.DNSName | x509.RFC822Name | x509.UniformResourceIdentifier]] = {
    "uri": x509.UniformResourceIdentifier,
    "email": x509.RFC822Name,
    "dns": x509.DNSName,
}


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What is needed of a certificate. Times are seconds since 1970."""

    names: dict[NameKind, str] = field(default_factory=dict)
    not_before: float = 0.0
    not_after: float = 0.0


class CertificateReader:
    """From the value of the header to the caller."""

    def __init__(
        self, config: CertificatesConfig, secret: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises ValueError if the secret is too short."""
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret has less than {SECRET_BYTES_MIN} bytes")
        self._config = config
        self._secret = secret
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[ClientCertificate, Identity]] = OrderedDict()

    def identify(self, header: bytes) -> Identity:
        """The caller whose certificate HAProxy has verified.

        Raises:
            Unauthorized: the header is not HAProxy's, the certificate has expired, or it stands for
                no caller.
        """
        now = self._clock()
        encoded = self._authenticate(header, now)
        certificate, identity = self._kept.get(encoded) or self._read(encoded)
        if not certificate.not_before <= now <= certificate.not_after:
            raise Unauthorized("client certificate that is not valid now")
        return identity

    def _authenticate(self, header: bytes, now: float) -> bytes:
        """The certificate in base64, as HAProxy has signed it a moment ago."""
        signed, _, mac = header.rpartition(b" ")
        expected = hmac_digest(self._secret, signed, sha256)
        if not compare_digest(expected.hex().encode(), mac.lower()):
            raise Unauthorized("client certificate that HAProxy has not signed")
        told, _, encoded = signed.partition(b" ")
        if not told.isdigit() or abs(now - int(told)) > self._config.skew_s:
            raise Unauthorized("client certificate that HAProxy signed at another time")
        return encoded

    def _read(self, encoded: bytes) -> tuple[ClientCertificate, Identity]:
        certificate = parse_certificate(encoded)
        found = certificate, map_certificate(certificate, self._config)
        self._kept[encoded] = found
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return found


def parse_certificate(encoded: bytes) -> ClientCertificate:
    """The certificate from its DER in base64.

    Raises:
        Unauthorized: it is none.
    """
    try:
        certificate = x509.load_der_x509_certificate(b64decode(encoded, validate=True))
        return ClientCertificate(
            _read_names(certificate),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
        )
    except (ValueError, binascii.Error):
        raise Unauthorized("client certificate that cannot be read") from None


def _read_names(certificate: x509.Certificate) -> dict[NameKind, str]:
    """The first name of each kind that the certificate has."""
    names: dict[NameKind, str] = {}
    kinds: tuple[NameKind, ...] = ("common_name", "organisation", "organisational_unit")
    for kind in kinds:
        for attribute in certificate.subject.get_attributes_for_oid(_SUBJECT[kind])[:1]:
            names[kind] = str(attribute.value)
    alternatives: tuple[NameKind, ...] = ("uri", "email", "dns")
    for kind in alternatives:
        for value in _alternatives(certificate, kind)[:1]:
            names[kind] = value
    return names


def _alternatives(certificate: x509.Certificate, kind: NameKind) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [str(value) for value in found.value.get_values_for_type(_ALTERNATIVE[kind])]


def map_certificate(certificate: ClientCertificate, config: CertificatesConfig) -> Identity:
    """The caller that a certificate stands for.

    Raises:
        Unauthorized: it stands for no caller, or a name has a form that logs cannot take.
    """
    names = certificate.names
    user = None if config.user is None else names.get(config.user)
    if user is not None and not (0 < len(user) <= TEXT_CHARS_MAX and user.isprintable()):
        raise Unauthorized("client certificate without a valid user")
    rule = next((rule for rule in config.rules if fits(rule, names)), None)
    tenant = rule.tenant if rule else names.get(config.tenant) if config.tenant else None
    tenant = tenant or config.tenant_default
    if tenant is None or _TENANT.fullmatch(tenant) is None:
        raise Unauthorized("client certificate without a valid tenant")
    roles = config.roles_default if rule is None or rule.roles is None else rule.roles
    return Identity(tenant, None, user, roles, certificate.not_after)


def fits(rule: CertificateRuleConfig, names: dict[NameKind, str]) -> bool:
    """Whether a rule is about a certificate with these names."""
    name = names.get(rule.kind)
    if name is None:
        return False
    if rule.matches.endswith("*"):
        return name.startswith(rule.matches[:-1])
    return name == rule.matches
