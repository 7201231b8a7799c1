"""A keyed signature on every request binds a lease to the Router that holds it.

The Router makes a secret for each lease and gives it to the replica in the call through Ray. Over
HTTP the Router sends only a signature of the values that the door decides by, so a lease id that is
read on the network or in a log opens nothing. Only the length of the body is signed: for a long
prompt, a digest of the body would take longer than all other work of a Router.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from hmac import compare_digest

SECRET_BYTES = 16
MAC_BYTES = 16
WINDOW = 64
"""How far a request may be behind the newest request of its lease. A Router asks for the load under
a lease while a call uses the lease on another connection, so two requests may overtake each other.
"""

_WINDOW_BITS = (1 << WINDOW) - 1


def new_secret() -> bytes:
    """A secret for one lease."""
    return secrets.token_bytes(SECRET_BYTES)


class LeaseSigner:
    """The Router's side: signs the requests of one lease, each with its own number."""

    __slots__ = ("_counter", "_lease_id", "_secret")

    def __init__(self, lease_id: str, secret: bytes) -> None:
        self._lease_id = lease_id.encode()
        self._secret = secret
        self._counter = 0

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The value of the lease header for one POST to `path`; `draft_tokens` b'' for none."""
        self._counter += 1
        counter = b"%d" % self._counter
        mac = _mac(self._secret, counter, path, draft_tokens, b"%d" % body_bytes)
        return b"%b %b %b" % (self._lease_id, counter, mac)


class LeaseVerifier:
    """The replica's side: accepts each request of one lease once."""

    __slots__ = ("_newest", "_secret", "_seen")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._newest = 0
        self._seen = _WINDOW_BITS

    def accepts(
        self, counter: bytes, mac: bytes, path: bytes, draft_tokens: bytes, body_bytes: bytes
    ) -> bool:
        """Whether the request is signed with the lease's secret and is not a replay."""
        expected = _mac(self._secret, counter, path, draft_tokens, body_bytes)
        return compare_digest(expected, mac) and self._is_new(int(counter))

    def _is_new(self, number: int) -> bool:
        ahead = number - self._newest
        if ahead > 0:
            self._newest = number
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & _WINDOW_BITS
            return True
        bit = 1 << -ahead
        if bit > _WINDOW_BITS or self._seen & bit:
            return False
        self._seen |= bit
        return True


def parse_lease(value: bytes) -> tuple[str, bytes, bytes]:
    """Lease id, number and signature in a lease header; missing parts are empty."""
    lease_id, _, signed = value.partition(b" ")
    counter, _, mac = signed.partition(b" ")
    return lease_id.decode("latin-1"), counter, mac


def _mac(secret: bytes, *parts: bytes) -> bytes:
    return blake2b(b" ".join(parts), key=secret, digest_size=MAC_BYTES).hexdigest().encode()
