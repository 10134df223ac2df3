"""Free ports of the loopback interface for processes that need a fixed one: the broker, `up`, the demo, tests.

A server that can report its port should bind port 0 instead.
"""

from __future__ import annotations

import atexit
import socket
import sys

from ledger.errors import NoFreePort
from ledger.jitter import CHANCE

# Below the ephemeral range of every system. A client that reconnects to a dead server on an ephemeral loopback port sooner or
# later connects to itself and then holds the port, and any outgoing connection may get the port in between.
PORTS = range(20_000, 30_000)
_ATTEMPTS = 200


_held: dict[int, socket.socket] = {}
"""Port -> the socket that holds it until this process ends."""


@atexit.register
def _release() -> None:
    for probe in _held.values():
        probe.close()  # closed by the garbage collector, it would be a ResourceWarning of every test run


def is_free(port: int) -> bool:
    """Whether a server can listen on 127.0.0.1:`port` now: a port that is only held counts as free."""
    probe = _bound(port, shared=True)
    if probe is None:
        return False
    probe.close()
    return True


def free_port(preferred: int | None = None, avoid: int = 0) -> int:
    """`preferred` if it is free, else any of `PORTS` but `avoid`. Raises `NoFreePort`.

    The port is held until this process ends: whoever else asks here gets another one, even before its server starts and
    between two starts.
    """
    if preferred and preferred != avoid and is_free(preferred):
        _hold(preferred, _bound(preferred, shared=True))
        return preferred
    for port in CHANCE.sample(PORTS, _ATTEMPTS):
        if port != avoid and _hold(port, _bound(port, shared=False)):
            return port
    raise NoFreePort(f"none of {_ATTEMPTS} ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1 is free")


def _bound(port: int, shared: bool) -> socket.socket | None:
    """A socket bound to the port, or None if it is taken; `shared` is content beside sockets that do not listen."""
    probe = socket.socket()
    if shared and sys.platform != "win32":  # there it would mean to take it from its current owner
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        probe.close()
        return None
    return probe


def _hold(port: int, probe: socket.socket | None) -> bool:
    """Keep the bound socket if that leaves the port to its server; False if there is none."""
    if probe is None:
        return False
    if sys.platform == "linux" and port not in _held:
        # Bound for itself alone, shared afterwards: of two processes one gets it. A server, which sets the same option, can then
        # listen on a port to which others are only bound; elsewhere it cannot.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _held[port] = probe
    else:
        probe.close()
    return True
