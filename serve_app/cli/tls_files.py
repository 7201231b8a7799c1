"""The files behind the public port's TLS: HAProxy gets copies, which lie beside its configuration.

A copy is replaced only by content that HAProxy can use, so a renewal that is only half written can
neither stop a start of HAProxy nor reach a client. Imports little, because it runs at each start
and reload of HAProxy.
"""

from __future__ import annotations

import base64
import os
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serve_app.config.tls import SECRET_BYTES_MIN, TlsListener, TlsSettings


class TlsFileUnusable(Exception):
    """A file of the TLS settings cannot be used; the message names it."""


@dataclass(frozen=True)
class TlsCopy:
    """One copy: where it lies, how HAProxy calls its kind, and which files it is made of."""

    kind: str
    path: Path
    sources: tuple[Path, ...]

    def read_sources(self) -> str:
        """What the files hold now, without the empty lines that would end HAProxy's commands.

        Raises:
            TlsFileUnusable: a file cannot be read, or the content cannot be used.
        """
        text = "".join(map(_read_pem, self.sources))
        begun = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            write_private(begun, text)
            self._check(begun)
        finally:
            begun.unlink(missing_ok=True)
        return text

    def _check(self, path: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if self.kind == "cert":
                # With this argument a key with a password fails, and OpenSSL does not ask for it.
                context.load_cert_chain(path, password="")
            else:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            names = " and ".join(map(str, self.sources))
            raise TlsFileUnusable(f"{names} cannot be used: {error.reason}") from None

    def read(self) -> str | None:
        """The copy itself, None if it has not been made."""
        try:
            return self.path.read_text("ascii")
        except FileNotFoundError:
            return None

    def write(self, text: str) -> None:
        """Replace the copy."""
        begun = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        write_private(begun, text)
        begun.replace(self.path)


@dataclass(frozen=True)
class TlsFiles:
    """The copies for one HAProxy."""

    tls: TlsSettings
    configuration: Path

    @property
    def copies(self) -> tuple[TlsCopy, ...]:
        """The copies, the certificate first."""
        return tuple(self._list())

    def _list(self) -> Iterator[TlsCopy]:
        tls = self.tls
        pair = (tls.certificate,) if tls.key is None else (tls.certificate, tls.key)
        yield TlsCopy("cert", self._beside("certificate.pem"), pair)
        if tls.client_ca is not None:
            yield TlsCopy("ca-file", self._beside("client-ca.pem"), (tls.client_ca,))
        if tls.client_crl is not None:
            yield TlsCopy("crl-file", self._beside("client-crl.pem"), (tls.client_crl,))

    def _beside(self, name: str) -> Path:
        return self.configuration.with_name(f"{self.configuration.name}.{name}")

    def prepare(self) -> TlsListener:
        """Make the copies; one that exists stays if its sources cannot be used now.

        Raises:
            TlsFileUnusable: a file cannot be used, and there is no copy of an earlier state.
        """
        for copy in self.copies:
            try:
                copy.write(copy.read_sources())
            except TlsFileUnusable as error:
                if copy.read() is None:
                    raise
                print(f"serve-app: the earlier copy is used, because {error}", file=sys.stderr)
        paths = {copy.kind: copy.path for copy in self.copies}
        return TlsListener(
            paths["cert"],
            paths.get("ca-file"),
            paths.get("crl-file"),
            self.tls.client_verify,
            None if self.tls.header_secret is None else _read_header_key(self.tls.header_secret),
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that no other user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _read_pem(path: Path) -> str:
    text = _read(path).decode("ascii", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not any(line.startswith("-----BEGIN ") for line in lines):
        raise TlsFileUnusable(f"{path} holds no PEM")
    return "\n".join(lines) + "\n"


def _read_header_key(path: Path) -> str:
    """The shared secret in base64, as HAProxy takes it."""
    secret = _read(path).rstrip(b"\r\n")
    if len(secret) < SECRET_BYTES_MIN:
        raise TlsFileUnusable(f"{path} has {len(secret)} bytes, less than {SECRET_BYTES_MIN}")
    return base64.b64encode(secret).decode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFileUnusable(f"{path}: {error.strerror or 'cannot be read'}") from None
