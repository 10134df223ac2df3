"""Free ports of the loopback interface for processes that need a fixed one: the broker, `up`, the demo, tests.

A server that can report its port should bind port 0 instead.
"""

from __future__ import annotations

import socket
import sys

from ledger.errors import NoFreePort
from ledger.jitter import CHANCE

# Below the ephemeral range of every system. A client that reconnects to a dead server on an ephemeral loopback port sooner or
# later connects to itself and then holds the port, and any outgoing connection may get the port in between.
PORTS = range(20_000, 30_000)
_ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be bound now."""
    with socket.socket() as probe:
        if sys.platform != "win32":  # there it would mean to take it from its current owner
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None, avoid: int = 0) -> int:
    """`preferred` if it is free, else any of `PORTS` but `avoid`. Raises `NoFreePort`."""
    candidates = CHANCE.sample(PORTS, _ATTEMPTS)
    for port in (preferred, *candidates) if preferred else candidates:
        if port != avoid and is_free(port):
            return port
    raise NoFreePort(f"none of {_ATTEMPTS} ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1 is free")
