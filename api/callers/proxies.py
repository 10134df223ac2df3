"""Proxies in front of `serve`: which are trusted, and whose connections carry many clients.

`X-Forwarded-For` and `X-Forwarded-Proto` are honoured only from addresses in `TRUSTED_PROXIES`, and ignored otherwise, whatever
uvicorn's own variable `FORWARDED_ALLOW_IPS` says. No decision here depends on a client's address, and no log line contains it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from api.settings import Network


class Proxies:
    """The networks of trusted proxies."""

    def __init__(self, networks: tuple[Network, ...] = ()) -> None:
        self._networks = networks

    def uvicorn_options(self) -> dict[str, Any]:
        """Options for uvicorn: which forwarded headers it trusts."""
        return {"proxy_headers": bool(self._networks), "forwarded_allow_ips": [str(network) for network in self._networks]}

    def __contains__(self, host: str) -> bool:
        """Whether a connection from `host`, as the system names it, comes from a trusted proxy."""
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
