"""The public port's TLS: whether there is any, and how long its certificates are valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

from serve_app.config.serve_file import HTTPOptions
from serve_app.config.tls import CERTIFICATE, TlsSettings, read_tls
from serve_app.model_files.finding import Finding
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok

RAY_CERTIFICATE = "ssl_certfile"
"""Ray's own key for TLS in `http_options`."""
RENEW = "Renew it; HAProxy takes the new files by itself (docs/tls.md)."


def is_public(host: str) -> bool:
    """Whether machines other than this one reach the address."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def find_missing_tls(
    http: HTTPOptions, other_keys: Iterable[str], environment: Mapping[str, str]
) -> Finding | None:
    """What is wrong with the public port's TLS in a config, None if nothing is."""
    if RAY_CERTIFICATE in other_keys:
        what = "Ray opens the Routers' own ports with it too, to which HAProxy speaks plain HTTP, "
        what += "so no call would be answered"
        mend = f"remove it, and set {CERTIFICATE} for the Ray processes (docs/tls.md)"
        return Finding(f"http_options.{RAY_CERTIFICATE}", what, mend, fatal=False)
    if is_public(http.host) and not environment.get(CERTIFICATE):
        what = f"{http.host} is public, and the port speaks plain HTTP unless {CERTIFICATE} is set"
        mend = "set it for the Ray processes, or let a proxy in front end TLS (docs/tls.md)"
        return Finding("http_options.host", what, mend, fatal=False)
    return None


def check_tls(http: HTTPOptions, environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """Check the TLS of the public port, as the environment of this process says it."""
    missing = find_missing_tls(http, http.other_keys, environment)
    if missing is not None:
        yield CheckResult(
            Level.WARNING,
            "TLS",
            f"{missing.where}: {missing.what}",
            "Prompts, answers and API keys can be read on the way.",
            f"{missing.mend}; `serve-app certs dev` makes a certificate to try.",
        )
    try:
        tls = read_tls(environment)
    except ValueError as error:
        yield CheckResult(
            Level.ERROR, "TLS", str(error), "HAProxy does not start.", "Correct the environment."
        )
        return
    if tls is not None:
        yield from _check_certificates(tls)


def _check_certificates(tls: TlsSettings) -> Iterator[CheckResult]:
    try:
        import cryptography  # noqa: F401  # of the extra `access`
    except ModuleNotFoundError:
        yield note("TLS", "the certificates are not looked at: install serve-app[access]")
        return
    for path in (tls.certificate, tls.client_ca):
        if path is not None:
            yield from _check_certificate(path)


def _check_certificate(path: Path) -> Iterator[CheckResult]:
    from serve_app.offline.certificates.summary import (
        WARN_DAYS,
        CertificateUnreadable,
        now,
        read_certificates,
    )

    try:
        found = read_certificates(path)
    except CertificateUnreadable as error:
        yield CheckResult(Level.ERROR, "TLS", str(error), "HAProxy does not start.", RENEW)
        return
    for summary in found:
        days, state = summary.days_left(now()), summary.state(now())
        what = f"{path}: {summary.subject} is {state}, {days:.0f} days left"
        if state == "valid":
            yield ok("TLS", what)
        elif state == "expiring":
            why = f"Clients refuse it in less than {WARN_DAYS} days."
            yield CheckResult(Level.WARNING, "TLS", what, why, RENEW)
        else:
            yield CheckResult(Level.ERROR, "TLS", what, "Clients refuse it.", RENEW)
