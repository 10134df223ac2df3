"""Reads `order-events` with a plain Kafka consumer and an Avro deserialiser. Imports nothing from this project.

A standalone script, run by the demo as a process, and a template for your own consumers:

    python plain_consumer.py BOOTSTRAP_SERVERS TOPIC REGISTRY_URL    with the token for the registry in REGISTRY_TOKEN

It tails the topic from the beginning until its standard input ends, then continues to the end of the log, and prints one JSON
object. `problems` lists every broken promise: a version out of sequence, a broken hash chain, a command with two events.

With `confluent_kafka`'s registry client installed (its dependencies: attrs, authlib, cachetools,
certifi, httpx2), values are decoded by Confluent's `AvroDeserializer`; else by fastavro with the schema fetched by its id.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

Decode = Callable[[bytes], Any]
T = TypeVar("T")
WIRE_PREFIX_BYTES = 5  # byte 0, then the schema id in four
PATIENCE_S = 600.0  # for an answer; the script is never in a hurry
ASK_S = 10.0  # one request to the cluster, repeated until the patience runs out
# Errors that waiting does not cure. The client recovers from all others by itself.
FINAL = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)


def confluent_decoder(url: str, token: str) -> Decode:
    """Confluent's own deserialiser. Raises `ImportError` when its dependencies are not installed."""
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    registry = SchemaRegistryClient({"url": url, "basic.auth.user.info": f"reader:{token}", "timeout": int(PATIENCE_S)})
    deserialize = AvroDeserializer(registry)
    return lambda value: deserialize(value, None)


def fastavro_decoder(url: str, token: str) -> Decode:
    """fastavro, with schemas fetched from the registry's `GET /schemas/ids/{id}`."""
    basic = base64.b64encode(f"reader:{token}".encode()).decode()
    schemas: dict[int, Any] = {}

    def decode(value: bytes) -> Any:
        schema_id = int.from_bytes(value[1:WIRE_PREFIX_BYTES], "big")
        if schema_id not in schemas:
            request = urllib.request.Request(f"{url}/schemas/ids/{schema_id}", headers={"Authorization": f"Basic {basic}"})  # noqa: S310  # the url is the operator's
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
                schemas[schema_id] = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
        return fastavro.schemaless_reader(io.BytesIO(value[WIRE_PREFIX_BYTES:]), schemas[schema_id], None)

    return decode


class TopicFindings:
    """Collects the contents of the events, and every broken promise to readers of the topic."""

    def __init__(self, decoder: str) -> None:
        self.decoder = decoder
        self.events = 0
        self.by_type: Counter[str] = Counter()
        self.orders: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        self._ordered: dict[str, Counter[str]] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._parts: dict[str, list[int]] = {}
        self._chain: dict[int, bytes] = {}
        self._commands: set[str] = set()

    def take(self, partition: int, offset: int, value: bytes, event: dict[str, Any]) -> None:
        where, order_id, version = f"{partition}-{offset}", event["order_id"], event["version"]
        self.events += 1
        self.by_type[event["type"]] += 1
        before = self.orders.get(order_id, {"version": 0})["version"]
        if version != before + 1:
            self.problems.append(f"{where}: {order_id} has version {version} after {before}")
        if event["prev_hash"] != self._chain.get(partition, bytes(32)):
            self.problems.append(f"{where}: the hash chain of partition {partition} is broken")
        if event["command_id"] in self._commands:
            self.problems.append(f"{where}: command {event['command_id']} has a second event")
        self._chain[partition] = hashlib.sha256(value[WIRE_PREFIX_BYTES:]).digest()
        self._commands.add(event["command_id"])
        names = ("version", "status", "customer_id", "currency", "total_minor", "captured_minor", "refunded_minor")
        self.orders[order_id] = {name: event[name] for name in names} | {"reserved_units": self._units(order_id, event)}

    def _units(self, order_id: str, event: dict[str, Any]) -> int:
        """How many units the stock services hold for an order after this event."""
        if event["placed"]:
            ordered = self._ordered[order_id] = Counter()
            for line in event["placed"]["lines"]:
                ordered[line["service"]] += line["quantity"]
        back = event["cut"] or (event["refund_request"] if (event["refund_request"] or {}).get("restock") else None)
        if back:  # each service releases its part under the next number
            units: Counter[str] = Counter()
            for line in back["lines"]:
                units[line["service"]] += line["quantity"]
            self._parts.setdefault(order_id, []).extend(units.values())
        if event["stock"]:
            service, part = event["stock"]["service"], event["stock"]["part"]
            if part is None:
                self._held[order_id, service] = self._ordered[order_id][service] * (event["type"] == "StockReserved")
            else:
                self._held[order_id, service] -= self._parts[order_id][part - 1]
        return sum(self._held[order_id, service] for service in self._ordered[order_id])

    def report(self) -> dict[str, Any]:
        return {
            "decoder": self.decoder,
            "events": self.events,
            "by_type": dict(self.by_type),
            "partitions": len(self._chain),
            "orders": self.orders,
            "problems": self.problems,
        }


def asked(question: Callable[[], T]) -> T:
    """The cluster's answer; repeats the request after temporary errors. Raises `KafkaException`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return question()
        except KafkaException as exc:
            error = exc.args[0]
            if error.fatal() or error.code() in FINAL or time.monotonic() > deadline:
                raise
            print(error, file=sys.stderr)
            time.sleep(0.2)


def end_of(consumer: Consumer, partition: TopicPartition) -> int:
    """The end of a partition, as a committed reader sees it."""
    return int(asked(lambda: consumer.get_watermark_offsets(partition, timeout=ASK_S))[1])


def read(bootstrap_servers: str, topic: str, decode: Decode, findings: TopicFindings, last_call: threading.Event) -> None:
    """Tail `topic` from its beginning. After `last_call`, continue up to its current end."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "plain-consumer",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,  # a request for an end offset waits behind a fetch that waits for events: 0.5 s by default
        }
    )
    try:
        partitions = asked(lambda: consumer.list_topics(topic, timeout=ASK_S)).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        reached = dict.fromkeys(partitions, 0)
        ends: dict[int, int] | None = None
        while ends is None or any(reached[p] < end for p, end in ends.items()):
            if ends is None and last_call.is_set():
                ends = {p: end_of(consumer, TopicPartition(topic, p)) for p in partitions}
            message = consumer.poll(0.2)
            if message is not None and _is_event(message, reached):
                value = message.value() or b""
                findings.take(message.partition() or 0, message.offset() or 0, value, decode(value))
    finally:
        consumer.close()


def _is_event(message: Message, reached: dict[int, int]) -> bool:
    """Whether `message` is an event. Notes reported partition ends, which include transaction markers."""
    error = message.error()
    if error is None:
        return True
    if error.code() != KafkaError._PARTITION_EOF:
        if error.fatal() or error.code() in FINAL:
            raise KafkaException(error)
        print(error, file=sys.stderr)  # a broker that is unreachable for now: the client retries by itself
        return False
    reached[message.partition() or 0] = message.offset() or 0
    return False


def main() -> None:
    """Read the topic named on the command line, and print the findings as JSON."""
    bootstrap_servers, topic, url = sys.argv[1:4]
    token = os.environ["REGISTRY_TOKEN"]
    try:
        decode, decoder = confluent_decoder(url, token), "confluent_kafka AvroDeserializer"
    except ImportError:
        decode, decoder = fastavro_decoder(url, token), "fastavro, schema fetched by id"
    findings = TopicFindings(decoder)
    last_call = threading.Event()

    def wait_for_the_end() -> None:
        try:
            while os.read(0, 4096):  # not sys.stdin, whose lock would be held at exit
                pass
        finally:
            last_call.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    began = time.monotonic()
    read(bootstrap_servers, topic, decode, findings, last_call)
    json.dump(findings.report() | {"seconds": round(time.monotonic() - began, 3)}, sys.stdout)


if __name__ == "__main__":
    main()
