"""Which network addresses a delivery may go to: public ones, so that nobody reaches into the shop's own network. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NUMBER_AT_END = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
# Global to `ipaddress`, and yet of whoever runs the network: protocol assignments, among them the metadata of Oracle's cloud, and
# the host of each virtual machine of Azure.
_INSIDE = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "168.63.129.16/32")))


def address_in(host: str) -> Address | None:
    """The address if `host`, without port, is one; None if it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def is_odd_number(host: str) -> bool:
    """Whether `host` is a number that some resolvers take for an IPv4 address, such as `127.1` or `0x7f000001`.

    It is what "ends in a number" (https://url.spec.whatwg.org/#ends-in-a-number-checker), except addresses of four parts.
    """
    return address_in(host) is None and _NUMBER_AT_END.search(host) is not None


def is_public(address: Address) -> bool:
    """Whether packets to `address` leave for the internet, also through the transitions from IPv4 to IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    if any(address in network for network in _INSIDE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
