"""The signature that binds a lease to its Router."""

from __future__ import annotations

from serve_app.leases.signature import WINDOW, LeaseSigner, LeaseVerifier, parse_lease

PATH = b"/v1/chat/completions"


def accepts(verifier: LeaseVerifier, value: bytes, path: bytes = PATH) -> bool:
    _, counter, mac = parse_lease(value)
    return verifier.accepts(counter, mac, path, b"", b"2")


def test_each_request_is_accepted_once() -> None:
    """In any order within the window; one that is older than the window never is."""
    signer, verifier = LeaseSigner("a", b"secret"), LeaseVerifier(b"secret")
    sent = [signer.sign(PATH, b"", 2) for _ in range(WINDOW + 3)]
    assert accepts(verifier, sent[2])
    assert accepts(verifier, sent[0])
    assert not accepts(verifier, sent[2])
    assert not accepts(verifier, sent[0])
    assert accepts(verifier, sent[-1])
    assert not accepts(verifier, sent[1])
    assert accepts(verifier, sent[3])
    assert not accepts(verifier, sent[3])
    assert accepts(verifier, sent[-2])


def test_nothing_but_the_secret_signs() -> None:
    """Another secret, another path, or no number at all: none is accepted, and none raises."""
    signed = LeaseSigner("a", b"secret").sign(PATH, b"", 2)
    assert not accepts(LeaseVerifier(b"other"), signed)
    assert not accepts(LeaseVerifier(b"secret"), signed, b"/lease")
    for value in (
        b"",
        b"a",
        b"a 1",
        b"a x y",
        b"a -1 ",
        signed + b" ",
        signed.replace(b" 1 ", b" 01 "),
    ):
        assert not accepts(LeaseVerifier(b"secret"), value)
    assert accepts(LeaseVerifier(b"secret"), signed)


def test_a_header_that_is_none_is_of_no_lease() -> None:
    """Bytes that are no text find no lease and do no harm."""
    assert parse_lease(b"") == ("", b"", b"")
    assert parse_lease(b"\xff\xfe 1 2")[0] == "\xff\xfe"
