"""Settings of a broker: alone, behind a proxy, and as a node of a cluster."""

from __future__ import annotations

from ledger.broker.properties import format_properties, server_properties
from ledger.broker.quorum import Quorum


def test_every_listener_of_the_broker_is_on_loopback() -> None:
    settings = server_properties(20_001, 20_002, proxied_ports=(20_003, 20_004))
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002,PROXIED://127.0.0.1:20003"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20001,PROXIED://127.0.0.1:20004"
    assert settings["listener.security.protocol.map"] == "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT"


def test_a_node_alone_is_its_own_quorum_and_one_of_a_cluster_knows_the_others() -> None:
    alone = server_properties(20_001, 20_002)
    assert (alone["node.id"], alone["controller.quorum.voters"]) == ("1", "1@127.0.0.1:20002")
    quorum = Quorum({1: 20_011, 2: 20_012, 3: 20_013}, 2, "the id")
    node = server_properties(20_001, quorum.controller_port, quorum=quorum)
    assert node["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20012"
    assert node["node.id"] == "2"
    assert node["controller.quorum.voters"] == "1@127.0.0.1:20011,2@127.0.0.1:20012,3@127.0.0.1:20013"


def test_what_is_formatted_does_not_depend_on_the_ports_of_a_cluster() -> None:
    one, other = (Quorum({1: first, 2: first + 1, 3: first + 2}, 2, "the id") for first in (20_011, 20_021))
    assert format_properties(one) == format_properties(other)
    assert format_properties(one)["controller.quorum.voters"] == "1@127.0.0.1:9093,2@127.0.0.1:9094,3@127.0.0.1:9095"
    assert "CONTROLLER://127.0.0.1:9094" in format_properties(one)["listeners"]
    assert format_properties(one) != format_properties(Quorum(one.controller_ports, 1, "the id"))
