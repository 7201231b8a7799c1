"""What a certificate says, and how long it is still valid."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

WARN_DAYS = 30


class CertificateUnreadable(Exception):
    """A file or a server gives no certificate; the message says which and why."""


@dataclass(frozen=True)
class CertificateSummary:
    """One certificate, for an operator."""

    source: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    serial: str
    not_before: datetime
    not_after: datetime
    is_authority: bool

    def days_left(self, now: datetime) -> float:
        """Days until the certificate expires, below zero if it has expired."""
        return (self.not_after - now).total_seconds() / 86_400

    def state(self, now: datetime) -> str:
        """One word: valid, expiring, expired or early."""
        if now < self.not_before:
            return "early"
        days = self.days_left(now)
        return "expired" if days < 0 else "expiring" if days < WARN_DAYS else "valid"


def read_certificates(path: Path) -> list[CertificateSummary]:
    """Every certificate of a PEM file, in its order.

    Raises:
        CertificateUnreadable: the file cannot be read or holds no certificate.
    """
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CertificateUnreadable(f"{path}: {error.strerror or 'cannot be read'}") from None
    except ValueError:
        raise CertificateUnreadable(f"{path}: holds no certificate in PEM") from None
    return [summarise(certificate, str(path)) for certificate in found]


def fetch_certificate(host: str, port: int, timeout_s: float = 5.0) -> CertificateSummary:
    """The certificate that a server shows. It is looked at, and not trusted.

    Raises:
        CertificateUnreadable: no server answers there with TLS.
    """
    where = f"{host}:{port}"
    try:
        pem = ssl.get_server_certificate((host, port), timeout=timeout_s)
    except OSError:
        raise CertificateUnreadable(f"{where}: no server answers there with TLS") from None
    return summarise(x509.load_pem_x509_certificate(pem.encode()), where)


def summarise(certificate: x509.Certificate, source: str) -> CertificateSummary:
    """What the certificate says."""
    return CertificateSummary(
        source,
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        tuple(_names(certificate)),
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        _is_authority(certificate),
    )


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return
    for name in found.value:
        if isinstance(name, x509.DNSName | x509.UniformResourceIdentifier | x509.RFC822Name):
            yield name.value
        elif isinstance(name, x509.IPAddress):
            yield str(name.value)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def now() -> datetime:
    """This moment, as certificates count it."""
    return datetime.now(UTC)
