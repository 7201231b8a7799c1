"""The end of the certificates of the public port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ray.serve.metrics import Gauge

from serve_app.observe.certificates import CertificateMetrics, find_certificates, read_end
from serve_app.offline.certificates.authority import Purpose, Subject, issue, make_authority


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The newest value for each use."""
    told: dict[str, float] = {}

    def note(metric: Gauge, value: float, tags: dict[str, str]) -> None:
        told[tags["use"]] = value

    monkeypatch.setattr(Gauge, "set", note)
    return told


def write(path: Path, days: int) -> float:
    """A certificate and its authority, which lives longer; returns the certificate's end."""
    authority = make_authority("test", days + 100)
    until = datetime.now(UTC) + timedelta(days=days)
    leaf = issue(authority, Subject("a", ("localhost",)), Purpose.SERVER, until)
    path.write_bytes(leaf.certificate_pem() + authority.certificate_pem())
    return leaf.certificate.not_valid_after_utc.timestamp()


def test_the_first_end_of_a_chain_counts(tmp_path: Path) -> None:
    """A client refuses the chain from then on."""
    end = write(tmp_path / "chain.pem", 5)
    assert read_end(tmp_path / "chain.pem") == end


def test_a_renewed_certificate_is_seen(tmp_path: Path, told: dict[str, float]) -> None:
    """About a minute later, without a restart; one that cannot be read is logged once."""
    now, path = [0.0], tmp_path / "tls.pem"
    metrics = CertificateMetrics({"server": path}, clock=lambda: now[0])
    first = write(path, 5)
    metrics.flush()
    second = write(path, 50)
    metrics.flush()
    assert told == {"server": first}
    now[0] = 61.0
    metrics.flush()
    assert told == {"server": second}


def test_a_file_that_cannot_be_read_has_no_end(
    tmp_path: Path, told: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, without the file's content."""
    now, path = [0.0], tmp_path / "tls.pem"
    path.write_text("no certificate")
    metrics = CertificateMetrics({"server": path}, clock=lambda: now[0])
    for now[0] in (0.0, 61.0, 122.0):
        metrics.flush()
    assert told == {}
    assert len(caplog.records) == 1
    assert "no certificate can be read" in caplog.text


def test_the_files_are_those_of_the_public_port() -> None:
    """None without TLS; a wrong environment is HAProxy's to refuse."""
    files = {"SERVE_APP_TLS_CERTIFICATE": "/a.pem", "SERVE_APP_TLS_CLIENT_CA": "/ca.pem"}
    assert find_certificates(files) == {"server": Path("/a.pem"), "client_ca": Path("/ca.pem")}
    assert find_certificates({}) == {}
    assert find_certificates({"SERVE_APP_TLS_KEY": "/key.pem"}) == {}
