"""A certificate that a replica makes for itself: Routers know it by its digest, from their lease.

No authority signs it and no file holds its key. It is new at each start of the replica.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280's end of a certificate without an end. A lease is what ends the trust in this one."""


class OwnCertificate:
    """A key that only this process has, and its certificate."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(key)
        self.digest = sha256(certificate.public_bytes(Encoding.DER)).digest()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _load(self.context, pem + certificate.public_bytes(Encoding.PEM))


def _sign(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "serve-app engine")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(NEVER)
        .sign(key, hashes.SHA256())
    )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and certificate from memory; `load_cert_chain` takes nothing but files."""
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, pem)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
