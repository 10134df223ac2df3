"""The place of a node in a cluster of embedded brokers, for tests: `order-ledger broker` runs one node alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quorum:
    """Nodes that are broker and controller each: their controller ports by id.

    `node_id` is one of them, `cluster_id` a UUID in Kafka's form (`ledger.broker.formatting.new_id`).
    """

    controller_ports: Mapping[int, int]
    node_id: int
    cluster_id: str

    @property
    def controller_port(self) -> int:
        """That of the node itself."""
        return self.controller_ports[self.node_id]
