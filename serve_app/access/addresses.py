"""From where a client calls: its address behind the proxies that are trusted."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from serve_app.config.access import AddressesConfig
from serve_app.core.errors import Forbidden

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CACHED_MAX = 4096
TEXT_MAX = 64
"""The longest text that can be an address: an IPv6 address with its zone, brackets and port."""


def parse_address(text: str) -> Address | None:
    """The address of a text; None if it is none.

    A port, brackets and the zone of a link-local address do not count. IPv6 addresses that stand
    for IPv4 addresses become these, so that one client cannot have two addresses.
    """
    text = text.strip()
    if len(text) > TEXT_MAX:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Networks:
    """A set of networks."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


class Addresses:
    """Finds and checks the addresses of clients."""

    def __init__(self, config: AddressesConfig) -> None:
        self._allow = None if config.allow is None else Networks(config.allow)
        self._deny = Networks(config.deny)
        self._trusted = Networks(config.trusted_proxies)
        self._restricts = config.restricts
        self._find = lru_cache(maxsize=CACHED_MAX)(self._search)

    def find(self, peer: str | None, forwarded_for: bytes | None) -> Address | None:
        """The client's address, None if it cannot be known.

        `peer` is the other end of the connection. `forwarded_for` is read from its end. Each entry
        was added by the address before it, so it counts only while that address is trusted.
        """
        if forwarded_for is not None and len(forwarded_for) > CACHED_MAX:
            return self._search(peer, forwarded_for)
        return self._find(peer, forwarded_for)

    def _search(self, peer: str | None, forwarded_for: bytes | None) -> Address | None:
        found = None if peer is None else parse_address(peer)
        entries = (forwarded_for or b"").decode("latin-1").split(",")
        for entry in reversed(entries):
            if found is None or found not in self._trusted:
                return found
            if entry.strip():
                found = parse_address(entry)
        return found

    def check(self, address: Address | None) -> None:
        """Check that a client may call from its address.

        Raises:
            Forbidden: it may not; with any list, neither may a client whose address is not known.
        """
        if not self._restricts:
            return
        if address is None or address in self._deny or not self._allows(address):
            raise Forbidden("call from your address")

    def _allows(self, address: Address) -> bool:
        return self._allow is None or address in self._allow
