"""`serve-app certs` as an operator meets it."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from serve_app.cli.certs import FILES
from serve_app.cli.main import app
from serve_app.config.tls import CERTIFICATE, KEY, SECRET_BYTES_MIN
from serve_app.offline.certificates.authority import Purpose, Subject, issue, make_authority


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["certs", *map(str, arguments)])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The directory that `certs dev` made."""
    directory = tmp_path / "certs"
    options = ("--host", "service.test", "--host", "10.0.0.1", "--client", "alice")
    result = run("dev", directory, *options, "--client-uri", "spiffe://bank/alice")
    assert result.exit_code == 0, result.output
    assert f"export {CERTIFICATE}={directory}/tls.crt\n" in result.stdout
    assert f"export {KEY}={directory}/tls.key\n" in result.stdout
    return directory


def test_what_is_made_is_private(made: Path) -> None:
    """Seven files, which only this user can read."""
    assert sorted(path.name for path in made.iterdir()) == sorted(FILES)
    assert {stat.S_IMODE((made / name).stat().st_mode) for name in FILES} == {0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert len((made / "header.secret").read_text().strip()) >= SECRET_BYTES_MIN


def test_what_is_made_fits_together(made: Path) -> None:
    """OpenSSL accepts the pairs, and the certificates name hosts and client."""
    for name in ("tls", "client"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            made / f"{name}.crt", made / f"{name}.key"
        )
    authority = x509.load_pem_x509_certificate((made / "ca.crt").read_bytes())
    for name, names in (("tls", ["service.test", "10.0.0.1"]), ("client", ["spiffe://bank/alice"])):
        x509.load_pem_x509_certificate(
            (made / f"{name}.crt").read_bytes()
        ).verify_directly_issued_by(authority)
        [shown] = orjson.loads(run("show", made / f"{name}.crt", "--json").stdout)
        assert shown["names"] == names
        assert shown["state"] == "valid"


def test_nothing_is_overwritten(made: Path) -> None:
    """Clients that trust the first authority keep working."""
    before = {path: path.read_bytes() for path in made.iterdir()}
    result = run("dev", made)
    assert result.exit_code == 1
    assert "nothing was written" in result.output
    assert {path: path.read_bytes() for path in made.iterdir()} == before


@pytest.mark.parametrize(
    ("days", "code", "word"), [(90, 0, "valid"), (5, 3, "expiring"), (-1, 1, "expired")]
)
def test_show_says_until_when(tmp_path: Path, days: int, code: int, word: str) -> None:
    """The exit code serves a cron job."""
    authority = make_authority("authority", 365)
    until = datetime.now(UTC) + timedelta(days=days)
    pair = issue(authority, Subject("s", ["localhost"]), Purpose.SERVER, until)
    (tmp_path / "tls.pem").write_bytes(pair.certificate_pem() + authority.certificate_pem())
    result = run("show", tmp_path / "tls.pem")
    assert result.exit_code == code
    assert result.stdout.startswith(word)
    assert "CN=authority" in result.stdout


@pytest.mark.parametrize(
    "arguments", [("/no/such/file",), ("/dev/null",), ("--address", "127.0.0.1:1")]
)
def test_what_cannot_be_read_is_one_line(arguments: tuple[str, ...]) -> None:
    """No file, no certificate, no server."""
    result = run("show", *arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_an_address_has_a_port() -> None:
    """A wrong call says what to write."""
    assert run("show", "--address", "localhost").exit_code == 2
