"""Which addresses are inside, where no name from outside may send the service."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

TUNNELS = (IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16"), IPv6Network("2001::/32"))
"""Global IPv6 addresses behind which an IPv4 address may lie: NAT64, 6to4 and Teredo."""


class PrivateAddress(Exception):
    """A name has an address inside, or is one."""


def is_listed(address: str, networks: Sequence[str]) -> bool:
    """Whether the address is in one of the networks; ValueError if it is no address."""
    found = _parse(address)
    return any(found in ip_network(network) for network in networks)


def is_public(address: str) -> bool:
    """Whether the address is one of the whole internet; ValueError if it is no address."""
    found = _parse(address)
    tunnelled = any(found in network for network in TUNNELS)
    return found.is_global and not found.is_multicast and not tunnelled


def _parse(address: str) -> IPv4Address | IPv6Address:
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found
