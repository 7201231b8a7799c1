"""What doctor and check say of the public port's TLS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.config.serve_file import HTTPOptions
from serve_app.config.tls import CERTIFICATE, CLIENT_CA, KEY
from serve_app.offline.certificates.authority import Purpose, Subject, issue, make_authority
from serve_app.offline.doctor.finding import Level
from serve_app.offline.doctor.tls import check_tls, find_missing_tls

AUTHORITY = make_authority("authority", 365)


def write(path: Path, days: float) -> str:
    until = datetime.now(UTC) + timedelta(days=days)
    pair = issue(AUTHORITY, Subject("s", ["localhost"]), Purpose.SERVER, until)
    path.write_bytes(pair.certificate_pem() + pair.key_pem())
    return str(path)


@pytest.mark.parametrize(
    ("host", "environment", "missing"),
    [
        ("127.0.0.1", {}, False),
        ("localhost", {}, False),
        ("::1", {}, False),
        ("0.0.0.0", {}, True),
        ("::", {}, True),
        ("10.0.0.1", {}, True),
        ("node-1", {}, True),
        ("0.0.0.0", {CERTIFICATE: "/c"}, False),
    ],
)
def test_a_public_address_needs_tls(host: str, environment: dict[str, str], missing: bool) -> None:
    """The loopback's needs none."""
    http = HTTPOptions(host=host)
    assert (find_missing_tls(http, http.other_keys, environment) is not None) is missing


def test_rays_own_tls_is_refused() -> None:
    """With HAProxy before the Routers it would answer no call."""
    http = HTTPOptions.model_validate({"host": "127.0.0.1", "ssl_certfile": "/c"})
    assert "no call would be answered" in str(find_missing_tls(http, http.other_keys, {}))


@pytest.mark.parametrize(
    ("days", "level", "what"),
    [
        (31, Level.OK, "valid, 31 days left"),
        (29, Level.WARNING, "expiring"),
        (-1, Level.ERROR, "expired"),
    ],
)
def test_a_certificate_that_ends_soon(tmp_path: Path, days: float, level: Level, what: str) -> None:
    """Thirty days before the end is a warning; after it, an error."""
    path = write(tmp_path / "tls.pem", days + 0.01)
    [found] = check_tls(HTTPOptions(host="0.0.0.0"), {CERTIFICATE: path})
    assert found.level is level
    assert what in found.what


def test_every_certificate_counts(tmp_path: Path) -> None:
    """The authority of the clients expires too."""
    path, authority = write(tmp_path / "tls.pem", 90), tmp_path / "ca.pem"
    authority.write_bytes(make_authority("a", 10).certificate_pem())
    found = check_tls(HTTPOptions(), {CERTIFICATE: path, CLIENT_CA: str(authority)})
    assert [result.level for result in found] == [Level.OK, Level.WARNING]


@pytest.mark.parametrize(
    "environment", [{KEY: "/k"}, {CERTIFICATE: "/no/such/file"}, {CERTIFICATE: "/dev/null"}]
)
def test_what_stops_haproxy_is_an_error(environment: dict[str, str]) -> None:
    """A wrong variable, a file that is missing, a file without a certificate."""
    [found] = check_tls(HTTPOptions(), environment)
    assert found.level is Level.ERROR
    assert found.mend
