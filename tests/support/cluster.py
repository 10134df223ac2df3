"""Three embedded brokers as one Kafka cluster, or one alone, to kill, freeze and restart.

Every topic is on all three, and a write needs two of them. Each node is broker and controller: with two nodes down, nothing can
be written and no leader is elected; what the third one leads can be read.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ledger.broker.formatting import new_id
from ledger.broker.jars import JarCheck
from ledger.broker.node import EmbeddedBroker
from ledger.broker.quorum import Quorum
from ledger.kafka.settings import KafkaSettings
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S

HEAP_MB = 256


def properties(size: int) -> dict[str, str]:
    """Settings of each of `size` nodes; one alone has the usual ones."""
    if size == 1:
        return {}
    copies, in_sync = str(size), str(size - 1)
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        # The nodes share the processor with the test: one that only waits for its turn is not dead.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }


class Cluster:
    """`brokers` by node id, from 1. `proxied`: (port to listen on, port to advertise) of the listener of each behind a proxy."""

    def __init__(self, folder: Path, size: int = 3, proxied: bool = False) -> None:
        self.nodes = range(1, size + 1)
        self._started: set[int] = set()
        controllers, cluster_id, check = {node: free_port() for node in self.nodes}, new_id(), JarCheck()
        self.ports = {node: free_port() for node in self.nodes}
        self.proxied = {node: (free_port(), free_port()) for node in self.nodes} if proxied else {}
        self.brokers = {
            node: EmbeddedBroker(
                folder / f"broker-{node}",
                port=self.ports[node],
                heap_mb=HEAP_MB,
                log_file=folder / f"broker-{node}.log",
                properties=properties(size),
                jit="quick",
                proxied_ports=self.proxied.get(node),
                check=check,
                quorum=Quorum(controllers, node, cluster_id),
            )
            for node in self.nodes
        }

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.ports.values())

    @property
    def proxied_servers(self) -> str:
        return ",".join(f"127.0.0.1:{advertised}" for _, advertised in self.proxied.values())

    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.bootstrap_servers, client_id="tests")

    # ---- start and stop

    def start(self, nodes: Iterable[int] | None = None) -> None:
        """Start those of the nodes that do not run, together: one of three is ready when it has met another one."""
        down = [node for node in (nodes or self.nodes) if not self.is_running(node)]
        with ThreadPoolExecutor(len(self.nodes), thread_name_prefix="broker") as pool:
            for started in [pool.submit(self.brokers[node].start) for node in down]:
                started.result(PATIENCE_S)
        self._started.update(down)

    def is_running(self, node: int) -> bool:
        return node in self._started and self.brokers[node].poll() is None

    def stop(self) -> None:
        """End all of them. An orderly end would take long: the last one has nobody to hand over to."""
        for broker in self.brokers.values():
            broker.stop(timeout_s=0)

    def kill(self, *nodes: int) -> None:
        """SIGKILL, together."""
        for node in nodes:
            os.kill(self.brokers[node].pid, signal.SIGKILL)
        for node in nodes:
            self.brokers[node].wait(PATIENCE_S)

    def roll(self) -> None:
        """Restart one node after the other in order, each when the one before has caught up."""
        for node in self.nodes:
            self.brokers[node].stop(PATIENCE_S)
            self.start([node])
            self.wait_whole()

    # ---- what the cluster says

    def wait_whole(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until every partition has a leader, and all replicas are in sync."""
        deadline = time.monotonic() + timeout_s
        while (missing := self.missing()) != []:
            assert time.monotonic() < deadline, f"after {timeout_s} s: {missing[:5]}"
            time.sleep(0.1)

    def missing(self) -> list[str]:
        """What a whole cluster does not lack: `topic-partition` without leader or replicas, or the cluster itself."""
        try:
            seen = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0}).list_topics(timeout=PATIENCE_S)
        except KafkaException as exc:
            return [str(exc)]
        if len(seen.brokers) < len(self.nodes):
            return [f"brokers: {sorted(seen.brokers)}"]
        return [
            f"{topic.topic}-{partition.id}: leader {partition.leader}, in sync {partition.isrs} of {partition.replicas}"
            for topic in seen.topics.values()
            for partition in topic.partitions.values()
            if partition.leader < 0 or len(partition.isrs) < len(partition.replicas)
        ]

    def leader_of(self, topic: str, partition: int) -> int:
        seen = AdminClient({"bootstrap.servers": self.bootstrap_servers}).list_topics(topic, timeout=PATIENCE_S)
        return int(seen.topics[topic].partitions[partition].leader)

    def memory_mb(self) -> dict[int, int]:
        """Resident memory of each running node."""
        return {
            node: psutil.Process(broker.pid).memory_info().rss // 2**20
            for node, broker in self.brokers.items()
            if self.is_running(node)
        }
