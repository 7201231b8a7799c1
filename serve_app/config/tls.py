"""TLS on the public port: what the environment of the Ray processes says about it; pure.

HAProxy is started by Ray, so these settings stand in the environment as HAProxy's other settings do
(`config/haproxy.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve_app.core.headers import CERTIFICATE_HEADER

CERTIFICATE = "SERVE_APP_TLS_CERTIFICATE"
KEY = "SERVE_APP_TLS_KEY"
CLIENT_CA = "SERVE_APP_TLS_CLIENT_CA"
CLIENT_CRL = "SERVE_APP_TLS_CLIENT_CRL"
CLIENT_VERIFY = "SERVE_APP_TLS_CLIENT_VERIFY"
HEADER_SECRET = "SERVE_APP_TLS_HEADER_SECRET"
CHECK_S = "SERVE_APP_TLS_CHECK_S"
NAMES = (CERTIFICATE, KEY, CLIENT_CA, CLIENT_CRL, CLIENT_VERIFY, HEADER_SECRET, CHECK_S)
PREFIX = "SERVE_APP_TLS_"

CIPHERSUITES = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
)
"""Every suite of TLS 1.3 that HAProxy's OpenSSL enables by default; stated, so that it is fixed."""
CURVES = ("X25519", "P-256", "P-384")
SECRET_BYTES_MIN = 32
"""Of the secret with which HAProxy signs what it says of a client's certificate."""

ClientVerify = Literal["required", "optional"]
"""Whether a client must have a certificate; as HAProxy names it."""


@dataclass(frozen=True)
class TlsSettings:
    """The files of the public port, and how often they are looked at.

    `key` None: the key is in the file of the certificate. `client_ca` None: no client is asked for
    a certificate. `header_secret` names the file with the secret that HAProxy shares with the
    Routers; None: the Routers do not learn which certificate a client has.
    """

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None
    client_crl: Path | None = None
    client_verify: ClientVerify = "required"
    header_secret: Path | None = None
    check_s: int = 10


def read_tls(environment: Mapping[str, str]) -> TlsSettings | None:
    """The settings of the environment, None without a certificate.

    Raises:
        ValueError: a variable is unknown, or one is set without another that it needs.
    """
    given = select_tls(environment)
    for name in given:
        if name not in NAMES:
            raise ValueError(f"{name} is none of {', '.join(NAMES)}")
    _check_needs(given)
    if not given.get(CERTIFICATE):
        return None
    return TlsSettings(
        Path(given[CERTIFICATE]),
        _read_path(given, KEY),
        _read_path(given, CLIENT_CA),
        _read_path(given, CLIENT_CRL),
        _read_verify(given.get(CLIENT_VERIFY, "required")),
        _read_path(given, HEADER_SECRET),
        _read_seconds(given.get(CHECK_S, "10")),
    )


def select_tls(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that are about TLS, misspelt ones included."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


NEEDS = {
    KEY: CERTIFICATE,
    CLIENT_CA: CERTIFICATE,
    CLIENT_CRL: CLIENT_CA,
    CLIENT_VERIFY: CLIENT_CA,
    HEADER_SECRET: CLIENT_CA,
    CHECK_S: CERTIFICATE,
}
"""A port without TLS by a forgotten variable would be worse than a port that does not open."""


def _check_needs(given: Mapping[str, str]) -> None:
    for name, needed in NEEDS.items():
        if given.get(name) and not given.get(needed):
            raise ValueError(f"{name} is set, but not {needed}")


def _read_path(given: Mapping[str, str], name: str) -> Path | None:
    return Path(given[name]) if given.get(name) else None


def _read_verify(text: str) -> ClientVerify:
    if text == "required":
        return "required"
    if text == "optional":
        return "optional"
    raise ValueError(f"{CLIENT_VERIFY} is {text!r}, not 'required' or 'optional'")


def _read_seconds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{CHECK_S} is {text!r}, not a number above zero")
    return int(text)


@dataclass(frozen=True)
class TlsListener:
    """What HAProxy's configuration says about TLS; the files are this service's own copies.

    Their paths contain no space, because Ray chooses them. `header_key` is the secret of the
    header in base64.
    """

    certificate: Path
    client_ca: Path | None = None
    client_crl: Path | None = None
    client_verify: ClientVerify = "required"
    header_key: str | None = None

    def bind(self) -> str:
        """The words at the end of the public port's `bind` line."""
        words = [
            f" ssl crt {self.certificate} alpn http/1.1 ssl-min-ver TLSv1.3",
            f"ciphersuites {':'.join(CIPHERSUITES)} curves {':'.join(CURVES)}",
        ]
        if self.client_ca is not None:
            # A resumed session would count although its certificate has expired or was revoked.
            words.append(f"ca-file {self.client_ca} verify {self.client_verify}")
            words.append("no-tls-tickets")
        if self.client_crl is not None:
            words.append(f"crl-file {self.client_crl}")
        return " ".join(words)

    def globals(self) -> Iterator[str]:
        """Lines of the section `global`."""
        yield "    ssl-load-extra-files none"
        if self.client_ca is not None:
            yield "    tune.ssl.cachesize 0"

    def requests(self) -> Iterator[str]:
        """Lines that give the Routers a client's certificate, signed with the shared secret."""
        if self.client_ca is None or self.header_key is None:
            return
        header = CERTIFICATE_HEADER.decode()
        yield (
            '    http-request set-var-fmt(txn.certificate) "%[date] %[ssl_c_der,base64]"'
            " if { ssl_c_used } { ssl_c_verify 0 }"
        )
        yield (
            f'    http-request set-header {header} "%[var(txn.certificate)]'
            f' %[var(txn.certificate),hmac(sha256,{self.header_key}),hex]"'
            " if { var(txn.certificate) -m found }"
        )
