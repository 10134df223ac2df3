"""Proxies in front of `serve`: whose word about the client counts, and whose connections are many clients'.

Only addresses that `TRUSTED_PROXIES` names may say by `X-Forwarded-For` and `X-Forwarded-Proto` whom they ask for; from anybody
else the two are ignored. Without a name nobody may, whatever uvicorn's own variable `FORWARDED_ALLOW_IPS` says. Nothing here
decides by a client's address, and no log line has it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from api.settings import Network


class Proxies:
    """The networks whose connections are a proxy's."""

    def __init__(self, networks: tuple[Network, ...] = ()) -> None:
        self._networks = networks

    def uvicorn_options(self) -> dict[str, Any]:
        """To be given to the server: what it believes of forwarded headers."""
        return {"proxy_headers": bool(self._networks), "forwarded_allow_ips": [str(network) for network in self._networks]}

    def __contains__(self, host: str) -> bool:
        """Whether a connection from `host`, as the system names it, is a proxy's."""
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
