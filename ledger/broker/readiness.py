"""Readiness of a broker: one Metadata request of Kafka's protocol.

By hand, so that `up` loads no Kafka client: that takes 0.09 s of a core while Java needs both.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cluster:
    """The state of a cluster, according to a broker."""

    cluster_id: str | None
    brokers: int
    leaderless: list[str]  # `topic-partition`


def ask_metadata(port: int, timeout_s: float) -> Cluster:
    """Send a Metadata request (version 4, all topics). Raises `OSError` or `struct.error` unless a Kafka broker answers."""
    metadata, version, correlation_id, client_id = 3, 4, 1, b"embedded-broker"
    body = struct.pack(">i?", -1, False)  # every topic; create none
    request = struct.pack(">hhih", metadata, version, correlation_id, len(client_id)) + client_id + body
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as stream:
            (size,) = struct.unpack(">i", stream.read(4))
            answer = _Reader(stream.read(size))
    answer.take("ii")  # correlation id, throttle time
    brokers = answer.array(lambda: (answer.take("i"), answer.string(), answer.take("i"), answer.string()))
    cluster_id = answer.string()
    answer.take("i")  # controller
    leaderless: list[str] = []
    for _ in range(answer.take("i")[0]):
        answer.take("h")
        topic = answer.string()
        answer.take("b")
        for _ in range(answer.take("i")[0]):
            error, partition, leader = answer.take("hii")
            answer.array(lambda: answer.take("i"))  # replicas
            answer.array(lambda: answer.take("i"))  # in-sync replicas
            if error != 0 or leader < 0:
                leaderless.append(f"{topic}-{partition}")
    return Cluster(cluster_id, brokers, leaderless)


class _Reader:
    """Parses one answer. Missing bytes raise `struct.error`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, form: str) -> tuple[int, ...]:
        fields = struct.unpack_from(">" + form, self._data, self._at)
        self._at += struct.calcsize(">" + form)
        return fields

    def string(self) -> str | None:
        (size,) = self.take("h")
        if size < 0:
            return None
        (text,) = struct.unpack_from(f"{size}s", self._data, self._at)
        self._at += size
        return str(text, "utf-8")

    def array(self, item: Callable[[], object]) -> int:
        """Skip an array; returns its number of items."""
        (count,) = self.take("i")
        for _ in range(count):
            item()
        return count
