"""From what HAProxy says of a client's certificate to the caller."""

from __future__ import annotations

import base64
import hmac
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.build import build
from serve_app.access.certificates import KEPT_MAX, CertificateReader
from serve_app.access.control import AccessControl
from serve_app.access.identity import Identity
from serve_app.config.access import AccessConfig
from serve_app.config.app import AppConfig
from serve_app.config.certificates import CertificateRuleConfig, CertificatesConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.secret import SecretConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.caller import Credentials
from serve_app.core.errors import Unauthorized
from serve_app.offline.certificates.authority import Purpose, Subject, issue, make_authority
from serve_app.steps import Plan

SECRET = b"k" * 32
AUTHORITY = make_authority("authority", 1)
UNTIL = datetime.now(UTC) + timedelta(hours=1)
NOW = time.time()


def configure(**keys: Any) -> CertificatesConfig:
    """A config whose secret the test hands over itself."""
    return CertificatesConfig(secret=SecretConfig(file="/secret"), **keys)


def encode(subject: Subject, until: datetime = UNTIL) -> bytes:
    certificate = issue(AUTHORITY, subject, Purpose.CLIENT, until).certificate
    return base64.b64encode(certificate.public_bytes(Encoding.DER))


def render(encoded: bytes, *, at: float = NOW, secret: bytes = SECRET) -> bytes:
    """The header as HAProxy writes it."""
    signed = b"%d %b" % (at, encoded)
    return signed + b" " + hmac.digest(secret, signed, "sha256").hex().upper().encode()


ALICE = Subject(
    "alice", uris=["spiffe://bank/risk/alice"], emails=["a@bank.example"], hosts=["a.bank.example"]
)
ENCODED = encode(ALICE)


def read(config: CertificatesConfig, header: bytes) -> Identity:
    return CertificateReader(config, SECRET, lambda: NOW).identify(header)


def rule(kind: str, matches: str, tenant: str, *roles: str) -> CertificateRuleConfig:
    return CertificateRuleConfig(
        kind=kind,  # type: ignore[arg-type]  # pydantic checks it
        matches=matches,
        tenant=tenant,
        roles=roles or None,
    )


@pytest.mark.parametrize(
    ("config", "tenant", "user", "roles"),
    [
        (configure(tenant_default="bank"), "bank", "alice", ()),
        (configure(tenant="email", user="uri"), "a@bank.example", ALICE.uris[0], ()),
        (configure(tenant="dns", user=None), "a.bank.example", None, ()),
        (configure(tenant="organisation", tenant_default="x"), "x", "alice", ()),
        (
            configure(
                rules=(
                    rule("uri", "spiffe://bank/ri", "wrong"),
                    rule("organisation", "*", "wrong"),
                    rule("uri", "spiffe://bank/risk/*", "risk", "admin"),
                    rule("common_name", "alice", "late"),
                )
            ),
            "risk",
            "alice",
            ("admin",),
        ),
        (
            configure(rules=(rule("email", "a@bank.example", "t"),), roles_default=("r",)),
            "t",
            "alice",
            ("r",),
        ),
    ],
)
def test_a_certificate_names_its_caller(
    config: CertificatesConfig, tenant: str, user: str | None, roles: tuple[str, ...]
) -> None:
    """The first fitting rule counts, then the named part, then the default."""
    found = read(config, render(ENCODED))
    assert found == Identity(tenant, None, user, roles, found.expires_at)
    assert found.expires_at == pytest.approx(UNTIL.timestamp(), abs=1)


@pytest.mark.parametrize(
    "config",
    [
        configure(rules=(rule("uri", "spiffe://other/*", "t"),)),
        configure(tenant="organisation"),
        configure(tenant="uri", tenant_default="x", user="organisational_unit"),
    ],
)
def test_a_certificate_of_nobody(config: CertificatesConfig) -> None:
    """A certificate that no rule and no default covers is refused; a missing user is none."""
    if config.tenant == "uri":
        assert read(config, render(ENCODED)).user is None
        return
    with pytest.raises(Unauthorized):
        read(config, render(ENCODED))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"forged",
        ENCODED,
        render(ENCODED, secret=b"x" * 32),
        render(ENCODED)[:-1],
        render(ENCODED)[:-1] + b"g",
        render(ENCODED).replace(b" ", b"  ", 1),
        render(ENCODED, at=NOW - 61),
        render(ENCODED, at=NOW + 62),
        render(b"bm8gY2VydGlmaWNhdGU="),
        render(b"not base64!"),
        render(b""),
        render(encode(Subject("a", ()), datetime.now(UTC) - timedelta(minutes=1))),
        render(encode(Subject("new\nline"))),
        b"\xff" * 40,
    ],
    ids=lambda header: "",  # The time and the secret would be in them, and differ in each process.
)
def test_what_is_not_haproxys_or_not_valid_is_refused(header: bytes) -> None:
    """Unsigned, signed by another, signed at another time, unreadable, expired, or not a name."""
    with pytest.raises(Unauthorized):
        read(configure(tenant_default="bank"), header)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_changed_bit_is_taken(position: int, bit: int) -> None:
    """Time, certificate and signature count as a whole."""
    header = bytearray(render(ENCODED))
    index = position % len(header)
    header[index] ^= 1 << bit
    signed, _, mac = bytes(header).rpartition(b" ")
    true_signed, _, true_mac = render(ENCODED).rpartition(b" ")
    if signed == true_signed and mac.lower() == true_mac.lower():
        return  # the case of a hexadecimal digit
    with pytest.raises(Unauthorized):
        read(configure(tenant_default="bank"), bytes(header))


def test_a_certificate_expires_on_a_connection_that_stays_open() -> None:
    """HAProxy looks at the date at the handshake only; the Router looks at each call."""
    moments = iter([NOW, UNTIL.timestamp() + 1])
    later = UNTIL.timestamp() + 1
    reader = CertificateReader(configure(tenant_default="bank"), SECRET, lambda: next(moments))
    assert reader.identify(render(ENCODED)).tenant == "bank"
    with pytest.raises(Unauthorized, match="not valid now"):
        reader.identify(render(ENCODED, at=later))


def test_a_reader_remembers_a_bounded_number() -> None:
    """A client with many certificates cannot fill the memory."""
    reader = CertificateReader(configure(tenant_default="bank"), SECRET, lambda: NOW)
    for number in range(3):
        reader.identify(render(encode(Subject(f"c{number}"))))
    assert len(reader._kept) == 3 < KEPT_MAX


def test_a_short_secret_and_a_config_of_nobody_are_refused() -> None:
    """Both would let anyone in, or no one."""
    with pytest.raises(ValueError, match="less than 32 bytes"):
        CertificateReader(configure(tenant_default="x"), b"short")
    with pytest.raises(ValueError, match="set rules, tenant or tenant_default"):
        configure()


@pytest.fixture
def control(tmp_path: Path) -> AccessControl:
    """Access by certificates, and for strangers a tenant of their own."""
    (tmp_path / "secret").write_bytes(SECRET)
    access = {
        "certificates": {
            "secret": {"file": str(tmp_path / "secret")},
            "tenant_default": "bank",
            "roles_default": ["user"],
        },
        "anonymous": {"tenant": "guests", "roles": ["user"]},
    }
    tiers = (TierConfig(name="fast", model_id="demo-fast"),)
    runtime = RuntimeConfig.model_validate({"access": access})
    return build(Plan(AppConfig(tiers=tiers), runtime, "r1"))


async def test_the_config_lets_certificates_in(control: AccessControl) -> None:
    """A caller with a certificate is somebody; a wrong certificate does not make it a stranger."""
    header = render(ENCODED, at=time.time())
    caller = await control.authenticate(Credentials(peer="127.0.0.1", certificate=header))
    assert (caller.tenant, caller.user, caller.roles) == ("bank", "alice", ("user",))
    assert (await control.authenticate(Credentials(peer="127.0.0.1"))).tenant == "guests"
    forged = render(ENCODED, at=time.time(), secret=b"x" * 32)
    with pytest.raises(Unauthorized):
        await control.authenticate(Credentials(peer="127.0.0.1", certificate=forged))


async def test_a_key_counts_before_a_certificate(control: AccessControl) -> None:
    """A wrong key is refused, although the certificate of its machine is right."""
    header = render(ENCODED, at=time.time())
    wrong = Credentials(api_key=b"sk-other", peer="127.0.0.1", certificate=header)
    with pytest.raises(Unauthorized):
        await control.authenticate(wrong)


def test_a_role_of_certificates_that_does_not_exist_is_named() -> None:
    """The config names a role that it does not define."""
    certificates = configure(tenant_default="bank", roles_default=("usr",))
    with pytest.raises(ValueError, match=r"certificates\.roles_default.*'usr'.*user"):
        AccessConfig(certificates=certificates)
