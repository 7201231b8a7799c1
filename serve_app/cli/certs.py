"""`serve-app certs`: certificates for first steps, and how long certificates are valid."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Annotated

import orjson
import typer

from serve_app.cli.tls_files import write_private
from serve_app.config.tls import CERTIFICATE, CLIENT_CA, HEADER_SECRET, KEY
from serve_app.offline.certificates.authority import (
    KeyPair,
    Purpose,
    Subject,
    issue,
    make_authority,
)
from serve_app.offline.certificates.summary import (
    CertificateSummary,
    CertificateUnreadable,
    fetch_certificate,
    now,
    read_certificates,
)

FILES = ("ca.crt", "ca.key", "tls.crt", "tls.key", "client.crt", "client.key", "header.secret")
HOSTS = ("localhost", "127.0.0.1", "::1")


def dev(
    directory: Annotated[Path, typer.Argument(help="A directory for the files; it may be new.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or an address of the service, in place of the loopback's."),
    ] = None,
    client: Annotated[str, typer.Option(help="The name in the client's certificate.")] = "dev",
    client_uri: Annotated[
        list[str] | None, typer.Option(help="A URI in the client's certificate (SPIFFE, ...).")
    ] = None,
    client_email: Annotated[
        list[str] | None, typer.Option(help="An e-mail address in the client's certificate.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=825, help="Days of validity.")] = 90,
) -> None:
    """Make a local authority, and certificates for the service and for one client.

    For tests and first steps: whoever reads `ca.key` can make any certificate.
    """
    there = [name for name in FILES if (directory / name).exists()]
    if there:
        typer.echo(f"{directory} already holds {', '.join(there)}; nothing was written.", err=True)
        raise typer.Exit(1)
    authority = make_authority("serve-app dev CA", days)
    until = now() + timedelta(days=days)
    hosts = tuple(host or HOSTS)
    server = issue(authority, Subject(hosts[0], hosts), Purpose.SERVER, until)
    asking = Subject(client, uris=client_uri or (), emails=client_email or ())
    _write(directory, authority, server, issue(authority, asking, Purpose.CLIENT, until))
    typer.echo(_explain(directory.absolute(), hosts[0]))


def _write(directory: Path, authority: KeyPair, server: KeyPair, client: KeyPair) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, pair in (("ca", authority), ("tls", server), ("client", client)):
        write_private(directory / f"{name}.crt", pair.certificate_pem().decode())
        write_private(directory / f"{name}.key", pair.key_pem().decode())
    write_private(directory / "header.secret", f"{token_hex(32)}\n")


def _explain(directory: Path, host: str) -> str:
    return f"""\
# For every Ray process, before `ray start`, `serve run` or `serve-app up`:
export {CERTIFICATE}={directory}/tls.crt
export {KEY}={directory}/tls.key
# To ask every client for a certificate, also these:
#export {CLIENT_CA}={directory}/ca.crt
#export {HEADER_SECRET}={directory}/header.secret

# A client:
#   curl --cacert {directory}/ca.crt https://{host}:8000/v1/models
# with a certificate, add:
#   --cert {directory}/client.crt --key {directory}/client.key"""


def show(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files with certificates in PEM.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Also HOST:PORT: the certificate that clients see now.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Show for whom certificates are, and until when.

    Exit code 0: all are valid. 1: one has expired or cannot be read. 3: one expires within 30 days.
    """
    found: list[CertificateSummary] = []
    broken = False
    try:
        for path in files or ():
            found += read_certificates(path)
        if address is not None:
            host, _, port = address.rpartition(":")
            found.append(fetch_certificate(host.strip("[]"), _read_port(port)))
    except CertificateUnreadable as error:
        typer.echo(str(error), err=True)
        broken = True
    _print(found, json=json)
    states = {summary.state(now()) for summary in found}
    raise typer.Exit(
        1 if broken or states & {"expired", "early"} else 3 if "expiring" in states else 0
    )


def _read_port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise typer.BadParameter("write HOST:PORT", param_hint="--address")
    return int(text)


def _print(found: list[CertificateSummary], *, json: bool) -> None:
    if json:
        rows = [
            {
                **asdict(summary),
                "state": summary.state(now()),
                "days_left": summary.days_left(now()),
            }
            for summary in found
        ]
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    for summary in found:
        typer.echo(
            f"{summary.state(now()):8} {summary.days_left(now()):6.0f} days  {summary.source}\n"
            f"    subject {summary.subject}   issuer {summary.issuer}   serial {summary.serial}\n"
            f"    names   {', '.join(summary.names) or '-'}\n"
            f"    valid   {_day(summary.not_before)} to {_day(summary.not_after)}"
        )


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
