"""The properties of a node, their file, and the cluster id of a log directory."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ledger.broker.quorum import Quorum
from ledger.errors import BrokerError
from ledger.files import write_whole

OWNED_PROPERTIES = frozenset({"process.roles", "node.id", "controller.quorum.voters", "log.dirs"})


def server_properties(
    port: int, controller_port: int, proxied_ports: tuple[int, int] | None = None, quorum: Quorum | None = None
) -> dict[str, str]:
    """Kafka's settings for one node on 127.0.0.1 with its log in `log/` of the working directory; alone unless in a `quorum`."""
    node_id, voters = (quorum.node_id, quorum.controller_ports) if quorum else (1, {1: controller_port})
    listeners = {"PLAINTEXT": port, "CONTROLLER": controller_port}
    advertised = {"PLAINTEXT": port}
    if proxied_ports:
        listeners["PROXIED"], advertised["PROXIED"] = proxied_ports
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{voter}" for node, voter in voters.items()),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": _listeners(listeners),
        "advertised.listeners": _listeners(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
        "log.dirs": "log",  # relative: Kafka splits this at commas, and a path may have one
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        # After a kill, the broker cannot return before its last session has expired; a heartbeat costs CPU while idle.
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "300",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.initial.task.delay.ms": "1000",
        "log.cleaner.dedupe.buffer.size": str(8 * 2**20),  # the default uses 128 MB of the heap
        "num.network.threads": "2",
        "num.io.threads": "2",
        "group.coordinator.threads": "1",
    }


def format_properties(quorum: Quorum | None) -> dict[str, str]:
    """Settings for formatting, which does not depend on the ports: always the same ones, so that the output can be cached."""
    if quorum is None:
        return server_properties(9092, 9093)
    usual = {node: 9093 + n for n, node in enumerate(sorted(quorum.controller_ports))}
    return server_properties(9092, usual[quorum.node_id], quorum=replace(quorum, controller_ports=usual))


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def cluster_id_of(log_dir: Path) -> str:
    """Raises `BrokerError` `start_failed` if `log_dir` was not formatted by Kafka."""
    try:
        lines = (log_dir / "meta.properties").read_text("utf-8").splitlines()
        return next(line.partition("=")[2].strip() for line in lines if line.startswith("cluster.id="))
    except (FileNotFoundError, StopIteration) as error:
        raise BrokerError("start_failed", f"{log_dir} is not a Kafka log directory: move it away and start again") from error


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """A Java properties file: Latin-1 with escapes."""

    def escaped(text: str) -> str:
        units = text.replace("\\", "\\\\").replace("\n", "\\n").encode("utf-16-be")
        return "".join(chr(code) if code < 127 else f"\\u{code:04x}" for (code,) in struct.iter_unpack(">H", units))

    write_whole(path, "".join(f"{key}={escaped(value)}\n" for key, value in properties.items()))
