"""The bookkeeping of connections: by address, and within the number of open files."""

from __future__ import annotations

from typing import Any

from api.connections import ConnectionLimits, Connections, _network, limits_within


def test_the_address_with_most_resting_connections_makes_room() -> None:
    """With a stand-in for uvicorn's connections: a machine has one loopback address for clients of IPv4 and one of IPv6."""

    class Resting:
        loop: Any = type("Loop", (), {"call_later": staticmethod(lambda *_: None)})

        def __init__(self) -> None:
            self.why = ""

        def end(self, why: str) -> None:
            self.why = why
            connections.forget(self, self.name)  # type: ignore[arg-type]

        name = ""

    connections = Connections(ConnectionLimits(connections=6, per_address=5))
    resting: list[Resting] = []
    for name in ("a", "b", "b", "b", "b", "c", "d", "d"):
        one = Resting()
        one.name = name
        address = connections.admit(one, name)  # type: ignore[arg-type]
        assert address is not None
        address.silent[one] = None  # type: ignore[index]
        resting.append(one)
    assert [(one.name, one.why) for one in resting if one.why] == [("b", "crowded out"), ("b", "crowded out")]
    assert len(connections) == 6


def test_a_network_of_ipv6_is_one_address() -> None:
    assert _network("192.0.2.1") == "192.0.2.1"
    assert _network("2001:db8::1") == _network("2001:db8::ffff:1") != _network("2001:db8:0:1::1")
    assert _network("::ffff:192.0.2.1") == "192.0.2.1"
    assert _network("fe80::1%eth0") == _network("fe80::2")


def test_fewer_files_mean_fewer_connections() -> None:
    assert limits_within(8192, 4096, 65_536)[:2] == (8192, 4096)
    assert limits_within(8192, 4096, 1024)[:2] == (512, 512)
    assert limits_within(8192, 4096, 256)[:2] == (64, 64)
