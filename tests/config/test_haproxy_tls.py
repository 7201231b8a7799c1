"""TLS in HAProxy itself, started as Ray starts it: handshakes, client certificates, renewal."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from serve_app.access.certificates import CertificateReader
from serve_app.cli.tls_files import TlsFiles, TlsFileUnusable
from serve_app.config.certificates import CertificatesConfig
from serve_app.config.environment import HAPROXY_PROGRAM, ray_environment
from serve_app.config.secret import SecretConfig
from serve_app.config.tls import (
    CERTIFICATE,
    CHECK_S,
    CLIENT_CA,
    CLIENT_CRL,
    CLIENT_VERIFY,
    HEADER_SECRET,
    KEY,
    TlsSettings,
    read_tls,
)
from serve_app.core.headers import CERTIFICATE_HEADER
from serve_app.offline.certificates.authority import (
    KeyPair,
    Purpose,
    Subject,
    issue,
    make_authority,
)
from tests.config.test_haproxy import Proxy, end, running, wait_for, write_config

SECRET = "s" * 40
HOURS = timedelta(hours=1)
REFUSED = (httpx.TransportError, ssl.SSLError)
"""TLS 1.3 tells a client after the handshake, and httpx does not always translate the error."""


def later(hours: float = 1) -> datetime:
    return datetime.now(UTC) + hours * HOURS


class Pki:
    """The files of a service and its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.authority = make_authority("authority", 1)
        (directory / "ca.pem").write_bytes(self.authority.certificate_pem())
        (directory / "header.secret").write_text(SECRET + "\n")
        self.renew_server()

    def renew_server(self) -> KeyPair:
        server = issue(self.authority, Subject("s", ("127.0.0.1",)), Purpose.SERVER, later())
        self.write("tls", server)
        return server

    def write(self, name: str, pair: KeyPair) -> tuple[str, str]:
        paths = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        paths[0].write_bytes(pair.certificate_pem())
        paths[1].write_bytes(pair.key_pem())
        return str(paths[0]), str(paths[1])

    def client(self, name: str, *, authority: KeyPair | None = None, hours: float = 1) -> KeyPair:
        subject = Subject(name, uris=[f"spiffe://bank/{name}"], emails=[f"{name}@bank.example"])
        pair = issue(authority or self.authority, subject, Purpose.CLIENT, later(hours))
        self.write(name, pair)
        return pair

    def revoke(self, *pairs: KeyPair) -> None:
        builder = x509.CertificateRevocationListBuilder(
            self.authority.certificate.subject, datetime.now(UTC) - HOURS, later()
        )
        for pair in pairs:
            revoked = x509.RevokedCertificateBuilder(
                pair.certificate.serial_number, datetime.now(UTC) - HOURS
            )
            builder = builder.add_revoked_certificate(revoked.build())
        crl = builder.sign(self.authority.key, hashes.SHA256())
        begun = self.directory / "crl.new"
        begun.write_bytes(crl.public_bytes(Encoding.PEM))
        begun.replace(self.directory / "crl.pem")

    def environment(self, **more: str) -> dict[str, str]:
        return {
            CERTIFICATE: str(self.directory / "tls.crt"),
            KEY: str(self.directory / "tls.key"),
            CHECK_S: "1",
            **more,
        }

    def asking(self, verify: str = "required", **more: str) -> dict[str, str]:
        return self.environment(
            **{
                CLIENT_CA: str(self.directory / "ca.pem"),
                CLIENT_VERIFY: verify,
                HEADER_SECRET: str(self.directory / "header.secret"),
                **more,
            }
        )

    def context(self, client: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.directory / "ca.pem")
        if client is not None:
            files = self.directory / f"{client}.crt", self.directory / f"{client}.key"
            context.load_cert_chain(*files)
        return context


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """An authority, and a certificate for the service."""
    return Pki(tmp_path / "pki")


@asynccontextmanager
async def serving(tmp_path: Path, environment: Mapping[str, str]) -> AsyncIterator[Proxy]:
    """HAProxy with these settings."""
    (tmp_path / "haproxy").mkdir(exist_ok=True)
    async with running(tmp_path / "haproxy", more=environment) as proxy:
        yield proxy


async def get(
    proxy: Proxy,
    context: ssl.SSLContext,
    headers: dict[str, str] | None = None,
    *,
    path: str = "/v1",
) -> httpx.Response:
    async with httpx.AsyncClient(verify=context, timeout=5, trust_env=False) as client:
        return await client.get(f"https://127.0.0.1:{proxy.port}{path}", headers=headers)


async def serial(proxy: Proxy, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_tls_1_3_and_no_other(tmp_path: Path, pki: Pki) -> None:
    """A handshake of TLS 1.3 succeeds; TLS 1.2 and plain HTTP reach no Router."""
    async with serving(tmp_path, pki.environment()) as proxy:
        context = pki.context()
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.close()
        assert (await get(proxy, context)).text == "ok"
        asked = len(proxy.backend.asked)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context)
        plain = await proxy.connect(b"GET /plain HTTP/1.1\r\nhost: h\r\n\r\n")
        assert not (await plain.rest()).startswith(b"HTTP/1.1 2")
        assert b"/plain" not in proxy.backend.asked
        assert len(proxy.backend.asked) == asked


async def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path, pki: Pki) -> None:
    """A connection that says nothing, or half a hello, ends with `timeout client`."""
    async with serving(tmp_path, pki.environment()) as proxy:
        for sent in (b"", b"\x16\x03\x01"):
            connection = await proxy.connect(sent)
            assert await asyncio.wait_for(connection.rest(), 10) == b""


async def test_the_files_are_private(tmp_path: Path, pki: Pki) -> None:
    """No other user reads the key or the secret, or gives HAProxy commands."""
    async with serving(tmp_path, pki.asking()) as proxy:
        directory = tmp_path / "haproxy"
        holder = proxy.process.pid
        names = (f"haproxy.cfg.{holder}.amended", "haproxy.cfg.certificate.pem", "admin.sock")
        for name in (*names, f"h{holder}"):
            assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


async def test_a_certificate_is_needed_where_it_is_required(tmp_path: Path, pki: Pki) -> None:
    """Clients with none, an expired one, a foreign one or a revoked one get no answer."""
    pki.client("alice")
    pki.client("expired", hours=-1)
    pki.client("foreign", authority=make_authority("authority", 1))
    pki.revoke(pki.client("revoked"))
    crl = {CLIENT_CRL: str(pki.directory / "crl.pem")}
    async with serving(tmp_path, pki.asking(**crl)) as proxy:
        assert (await get(proxy, pki.context("alice"))).text == "ok"
        asked = len(proxy.backend.asked)
        for client in (None, "expired", "foreign", "revoked"):
            with pytest.raises(REFUSED):
                await get(proxy, pki.context(client))
        assert len(proxy.backend.asked) == asked


@pytest.mark.parametrize("client", ["expired", "foreign"])
async def test_an_optional_certificate_must_be_valid(tmp_path: Path, pki: Pki, client: str) -> None:
    """A client without one is answered; a client with a bad one is not."""
    pki.client("expired", hours=-1)
    pki.client("foreign", authority=make_authority("other", 1))
    async with serving(tmp_path, pki.asking("optional")) as proxy:
        assert (await get(proxy, pki.context())).text == "ok"
        with pytest.raises(REFUSED):
            await get(proxy, pki.context(client))


async def test_a_router_learns_whose_certificate_it_is(tmp_path: Path, pki: Pki) -> None:
    """The header is HAProxy's own, signed; the Router's reader takes it."""
    pki.client("alice")
    name = CERTIFICATE_HEADER.decode()
    async with serving(tmp_path, pki.asking("optional")) as proxy:
        await get(proxy, pki.context("alice"), {name: "forged"})
        [line] = [line for line in proxy.backend.head.split(b"\r\n") if b"certificate" in line]
        # The test's Router writes heads in lower case, so the value comes from a second look.
        assert line.startswith(CERTIFICATE_HEADER + b": 1")
        value = proxy.backend.raw_headers[CERTIFICATE_HEADER]
        config = CertificatesConfig(
            secret=SecretConfig(file="/s"), tenant_default="bank", user="uri"
        )
        identity = CertificateReader(config, SECRET.encode()).identify(value)
        assert (identity.tenant, identity.user) == ("bank", "spiffe://bank/alice")
        await get(proxy, pki.context(), {name: "forged", name.upper(): "forged"})
        assert CERTIFICATE_HEADER not in proxy.backend.raw_headers


async def test_without_tls_the_header_is_removed_too(tmp_path: Path) -> None:
    """A client of the plain port cannot claim a certificate either."""
    async with serving(tmp_path, {}) as proxy:
        name = CERTIFICATE_HEADER.decode()
        async with httpx.AsyncClient(timeout=5) as client:
            await client.get(f"http://127.0.0.1:{proxy.port}/", headers={name: "forged"})
        assert CERTIFICATE_HEADER not in proxy.backend.raw_headers


async def test_a_renewal_under_load_loses_no_call(tmp_path: Path, pki: Pki) -> None:
    """Calls go on, on new connections and on old ones, and so does a stream that has begun."""
    context = pki.context()
    async with serving(tmp_path, pki.environment()) as proxy:
        before = await serial(proxy, context)
        done = asyncio.Event()
        load = asyncio.gather(
            *(ask_until(proxy, context, done, keep=keep) for keep in (True, True, False, False))
        )
        stream = asyncio.create_task(get(proxy, context, path="/stream"))
        await wait_for(lambda: b"/stream" in proxy.backend.asked)
        renewed = pki.renew_server().certificate.serial_number
        while await serial(proxy, context) != renewed:
            assert not load.done()
            await asyncio.sleep(0.05)
        done.set()
        counts = await asyncio.wait_for(load, 30)
        assert (await stream).text == "abok"
        assert before != renewed
        assert min(counts) > 0
        assert psutil.pid_exists(proxy.process.pid)
        assert proxy.process.returncode is None


async def ask_until(
    proxy: Proxy, context: ssl.SSLContext, done: asyncio.Event, *, keep: bool
) -> int:
    """Calls until then, on one connection or on a new one each; any failure fails the test."""
    count = 0
    url = f"https://127.0.0.1:{proxy.port}/v1"
    async with httpx.AsyncClient(verify=context, timeout=5, trust_env=False) as kept:
        while not done.is_set():
            response = await kept.get(url) if keep else await get(proxy, context)
            assert response.text == "ok"
            count += 1
    return count


async def test_half_a_renewal_changes_nothing(tmp_path: Path, pki: Pki) -> None:
    """A certificate without its key is not used; the log says so, and the second half mends it."""
    context = pki.context()
    async with serving(tmp_path, pki.environment()) as proxy:
        before = await serial(proxy, context)
        key = (pki.directory / "tls.key").read_bytes()
        renewed = pki.renew_server()
        new_key = (pki.directory / "tls.key").read_bytes()
        (pki.directory / "tls.key").write_bytes(key)
        stderr = tmp_path / "haproxy" / "stderr"
        await wait_for(lambda: b"not renewed" in stderr.read_bytes())
        assert await serial(proxy, context) == before
        (pki.directory / "tls.key").write_bytes(new_key)
        await wait_for(lambda: b"renewed haproxy.cfg.certificate.pem" in stderr.read_bytes())
        assert await serial(proxy, context) == renewed.certificate.serial_number


async def test_a_revocation_counts_without_a_restart(tmp_path: Path, pki: Pki) -> None:
    """A client that the renewed list names is refused at its next connection."""
    alice = pki.client("alice")
    pki.revoke()
    crl = {CLIENT_CRL: str(pki.directory / "crl.pem")}
    async with serving(tmp_path, pki.asking(**crl)) as proxy:
        assert (await get(proxy, pki.context("alice"))).text == "ok"
        pki.revoke(alice)
        stderr = tmp_path / "haproxy" / "stderr"
        await wait_for(lambda: b"renewed haproxy.cfg.client-crl.pem" in stderr.read_bytes())
        with pytest.raises(REFUSED):
            await get(proxy, pki.context("alice"))


async def test_a_new_authority_counts_without_a_restart(tmp_path: Path, pki: Pki) -> None:
    """Clients of both authorities are answered while one replaces the other."""
    other = make_authority("other", 1)
    pki.client("alice")
    pki.client("bob", authority=other)
    async with serving(tmp_path, pki.asking()) as proxy:
        with pytest.raises(REFUSED):
            await get(proxy, pki.context("bob"))
        with (pki.directory / "clients.pem").open("wb") as both:
            both.write(pki.authority.certificate_pem() + b"\n" + other.certificate_pem())
        (pki.directory / "clients.pem").replace(pki.directory / "ca.pem")
        stderr = tmp_path / "haproxy" / "stderr"
        await wait_for(lambda: b"renewed haproxy.cfg.client-ca.pem" in stderr.read_bytes())
        for client in ("alice", "bob"):
            assert (await get(proxy, pki.context(client))).text == "ok"


async def test_a_file_that_haproxy_cannot_take_is_told(tmp_path: Path, pki: Pki) -> None:
    """A command has at most `tune.bufsize`; the log says so, and clients are asked as before."""
    pki.client("alice")
    async with serving(tmp_path, pki.asking()) as proxy:
        many = [make_authority(f"authority {number}", 1) for number in range(60)]
        with (pki.directory / "ca.new").open("wb") as file:
            file.writelines(pair.certificate_pem() for pair in [pki.authority, *many])
        (pki.directory / "ca.new").replace(pki.directory / "ca.pem")
        stderr = tmp_path / "haproxy" / "stderr"
        await wait_for(lambda: b"change tune.bufsize" in stderr.read_bytes())
        assert (await get(proxy, pki.context("alice"))).text == "ok"


def find_watcher(holder: int) -> psutil.Process:
    """The process that looks after the certificates of what Ray started."""
    below = psutil.Process(holder).children(recursive=True)
    [watcher] = [each for each in below if "serve_app.cli.certificate_watch" in each.cmdline()]
    return watcher


async def test_the_watcher_ends_with_its_haproxy(tmp_path: Path, pki: Pki) -> None:
    """It is a child of HAProxy's supervisor, and leaves when the supervisor has gone."""
    async with serving(tmp_path, pki.environment()) as proxy:
        watcher = find_watcher(proxy.process.pid)
        # Ray would count it as an HAProxy.
        assert str(tmp_path / "haproxy" / "haproxy.cfg") not in watcher.cmdline()
    await wait_for(lambda: not watcher.is_running())


async def test_renewal_goes_on_after_rays_own_reload(tmp_path: Path, pki: Pki) -> None:
    """Ray starts another HAProxy whenever Routers come and go: its watcher takes over."""
    context = pki.context()
    async with serving(tmp_path, pki.environment()) as proxy:
        first = find_watcher(proxy.process.pid)
        configuration = str(tmp_path / "haproxy" / "haproxy.cfg")
        environment = {**os.environ, **ray_environment(), **pki.environment()}
        second = await asyncio.create_subprocess_exec(
            ray_environment()[HAPROXY_PROGRAM],
            *("-db", "-f", configuration, "-sf", str(proxy.process.pid)),
            *("-x", proxy.config.socket_path),
            env=environment,
        )
        try:
            await asyncio.wait_for(proxy.process.wait(), 20)
            await wait_for(lambda: not first.is_running())
            renewed = pki.renew_server().certificate.serial_number
            while await serial(proxy, context) != renewed:
                await asyncio.sleep(0.05)
            assert (await get(proxy, context)).text == "ok"
        finally:
            await end(second)


async def test_a_start_without_a_usable_certificate_says_why(tmp_path: Path, pki: Pki) -> None:
    """HAProxy is not started without TLS; one line names the file."""
    (pki.directory / "tls.key").write_text("")
    write_config(tmp_path, backend_port=1)
    environment = {**ray_environment(), **pki.environment()}
    process = await asyncio.create_subprocess_exec(
        environment[HAPROXY_PROGRAM],
        *("-db", "-f", str(tmp_path / "haproxy.cfg")),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    key = pki.directory / "tls.key"
    assert said.decode() == f"serve-app: HAProxy is not started: {key} holds no PEM\n"
    assert process.returncode == 1


def test_a_broken_renewal_does_not_stop_a_start(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray may start HAProxy again at any moment: the copy of the last good pair is used."""
    files = TlsFiles(
        TlsSettings(pki.directory / "tls.crt", pki.directory / "tls.key"), tmp_path / "haproxy.cfg"
    )
    listener = files.prepare()
    before = listener.certificate.read_text()
    (pki.directory / "tls.crt").write_text("-----BEGIN NONSENSE-----\n")
    assert files.prepare() == listener
    assert listener.certificate.read_text() == before
    assert "the earlier copy is used" in capsys.readouterr().err


def test_a_short_secret_is_refused(tmp_path: Path, pki: Pki) -> None:
    """The secret is a key, so it has at least 32 bytes."""
    (pki.directory / "header.secret").write_text("short\n")
    tls = read_tls(pki.asking())
    assert tls is not None
    with pytest.raises(TlsFileUnusable, match="5 bytes, less than 32"):
        TlsFiles(tls, tmp_path / "haproxy.cfg").prepare()


def test_settings_are_read_from_the_environment() -> None:
    """Without a certificate there is no TLS; each other variable has a default."""
    assert read_tls({"PATH": "/bin"}) is None
    assert read_tls({CERTIFICATE: ""}) is None
    assert read_tls({CERTIFICATE: "/c"}) == TlsSettings(Path("/c"))
    read = read_tls({CERTIFICATE: "/c", CLIENT_CA: "/a", CLIENT_VERIFY: "optional", CHECK_S: "5"})
    assert read == TlsSettings(
        Path("/c"), client_ca=Path("/a"), client_verify="optional", check_s=5
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({KEY: "/k"}, f"{KEY} is set, but not {CERTIFICATE}"),
        ({CERTIFICATE: "/c", CLIENT_VERIFY: "required"}, f"is set, but not {CLIENT_CA}"),
        ({CERTIFICATE: "/c", CLIENT_CA: "/a", CLIENT_VERIFY: "no"}, "not 'required' or"),
        ({CERTIFICATE: "/c", CHECK_S: "0"}, "not a number above zero"),
        ({"SERVE_APP_TLS_CERT": "/c"}, "SERVE_APP_TLS_CERT is none of"),
    ],
)
def test_a_wrong_setting_is_refused(given: dict[str, str], said: str) -> None:
    """A misspelt variable must not open a port without TLS."""
    with pytest.raises(ValueError, match=said):
        read_tls(given)
