"""The client's address behind trusted proxies, and the lists of addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.addresses import Addresses, parse_address
from serve_app.config.access import AddressesConfig
from serve_app.core.errors import Forbidden

PROXIES = ("10.0.0.0/8", "fd00::/8")


def make_addresses(**config: object) -> Addresses:
    return Addresses(AddressesConfig.model_validate({"trusted_proxies": PROXIES, **config}))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:4711 ", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)
def test_an_address_has_one_form(text: str, address: str) -> None:
    """Ports, brackets, zones and IPv4 within IPv6 make no other client of it."""
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text",
    ["", "unknown", "_hidden", "192.0.2", "192.0.2.1.5", "0x7f.1", "010.0.0.1", "1" * 5000, "é"],
)
def test_garbage_is_no_address(text: str) -> None:
    """Nor is a form that other programs read as another address."""
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", b"203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", b"203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", b"203.0.113.9,192.0.2.1,10.0.0.2", "192.0.2.1"),
        ("10.0.0.1", b"203.0.113.9,192.0.2.1,,10.0.0.2,", "192.0.2.1"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", b"[2001:db8::1]:443, [fd00::2]:80", "2001:db8::1"),
        ("::ffff:10.0.0.1", b"192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", b"192.0.2.1, unknown", None),
        ("10.0.0.1", b"\xff\xfe", None),
        ("/run/serve.sock", b"192.0.2.1", None),
        (None, b"192.0.2.1", None),
    ],
)
def test_the_client_is_the_last_address_that_is_not_trusted(
    peer: str | None, forwarded_for: bytes | None, client: str | None
) -> None:
    """What an address that is not trusted says of addresses before it does not count."""
    found = make_addresses().find(peer, forwarded_for)
    assert (found and str(found)) == client


@given(
    written=st.binary(max_size=60).filter(lambda text: b"\n" not in text),
    hops=st.lists(st.sampled_from(["10.0.0.2", "[fd00::9]:80", "::ffff:10.1.2.3"]), max_size=3),
)
def test_what_a_client_writes_never_counts(written: bytes, hops: list[str]) -> None:
    """Whatever it is, and however many trusted proxies come after the client's own address."""
    forwarded = b",".join([written, b"192.0.2.1", *(hop.encode() for hop in hops)])
    assert str(make_addresses().find("10.0.0.1", forwarded)) == "192.0.2.1"


@given(peer=st.none() | st.text(max_size=60), forwarded=st.none() | st.binary(max_size=80))
def test_no_header_breaks_the_search(peer: str | None, forwarded: bytes | None) -> None:
    """A malformed header is no fault of ours."""
    make_addresses().find(peer, forwarded)


def test_without_a_trusted_proxy_nothing_is_read() -> None:
    """The peer is the client."""
    found = make_addresses(trusted_proxies=[]).find("127.0.0.1", b"192.0.2.1")
    assert str(found) == "127.0.0.1"


def test_a_long_list_is_read_and_not_kept() -> None:
    """Its end counts as that of a short list."""
    forwarded = b"203.0.113.9," * 1000 + b"192.0.2.1"
    assert str(make_addresses().find("10.0.0.1", forwarded)) == "192.0.2.1"


@pytest.mark.parametrize(
    ("config", "address", "allowed"),
    [
        ({}, "192.0.2.1", True),
        ({}, None, True),
        ({"allow": ["192.0.2.0/24", "2001:db8::/32"]}, "192.0.2.1", True),
        ({"allow": ["192.0.2.0/24", "2001:db8::/32"]}, "2001:db8::5", True),
        ({"allow": ["192.0.2.0/24"]}, "2001:db8::5", False),
        ({"allow": ["192.0.2.0/24"]}, "::ffff:192.0.2.1", True),
        ({"allow": ["192.0.2.0/24"]}, "192.0.3.1", False),
        ({"allow": ["192.0.2.0/24"]}, None, False),
        ({"allow": []}, "192.0.2.1", False),
        ({"deny": ["192.0.2.1"]}, "192.0.2.1", False),
        ({"deny": ["192.0.2.1"]}, "::ffff:192.0.2.1", False),
        ({"deny": ["192.0.2.1"]}, "192.0.2.2", True),
        ({"deny": ["192.0.2.1"]}, None, False),
        ({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.1"]}, "192.0.2.1", False),
    ],
)
def test_the_lists_of_addresses(
    config: dict[str, object], address: str | None, allowed: bool
) -> None:
    """`deny` goes before `allow`; with any list, an address that is not known is refused."""
    addresses = make_addresses(**config)
    found = addresses.find(address, None)
    if allowed:
        addresses.check(found)
        return
    with pytest.raises(Forbidden, match="address"):
        addresses.check(found)
