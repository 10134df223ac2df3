"""Ports of the loopback interface for whoever has to be told its port: the broker, `up`, the demo, tests.

A server that can say which port it got should bind port 0 instead.
"""

from __future__ import annotations

import random
import socket
import sys

from ledger.errors import NoFreePort

# Below every system's ephemeral range. A client that reconnects to a dead server on an ephemeral loopback port sooner or
# later connects to itself and then holds the port, and any outgoing connection may be given the port in between.
PORTS = range(20_000, 30_000)
_ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be bound now."""
    with socket.socket() as probe:
        if sys.platform != "win32":  # there it would mean "take it from whoever has it"
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None, avoid: int = 0) -> int:
    """`preferred` if it is free, else any of `PORTS` but `avoid`. Raises `NoFreePort`."""
    candidates = random.sample(PORTS, _ATTEMPTS)
    for port in (preferred, *candidates) if preferred else candidates:
        if port != avoid and is_free(port):
            return port
    raise NoFreePort(f"none of {_ATTEMPTS} ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1 is free")
