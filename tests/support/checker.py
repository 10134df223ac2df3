"""An independent checker of the ledger's topics. It imports nothing of the product: its own reader, its own fold (`folded`).

`read_topic` reads a topic to its committed end with a plain consumer; `check` walks the records and returns every broken
promise as one line. Its knowledge comes from the contract of the topics alone:

    versions 1..n per order, without gaps · one hash chain per partition · one event per accepted command, one refusal per
    refused one, never both · every command answered, each command record at most once, in the order of the command log ·
    the envelope's status and money agree with the details · units, parcels and money that goes back: see `folded`
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.support.folded import Folded
from tests.support.patience import PATIENCE_S

AVSC_DIR = Path(__file__).resolve().parents[2] / "avro"
UNANSWERED = "has no answer"


class Raw(NamedTuple):
    """A record as the consumer returned it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Decoded(NamedTuple):
    """A record with its value as plain fields."""

    raw: Raw
    fields: dict[str, Any]


def read_topic(bootstrap: str, topic: str, isolation: str = "read_committed", timeout_s: float = PATIENCE_S) -> list[Raw]:
    """Every record of `topic` up to its present end, partition by partition, in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "independent-checker",  # librdkafka requires one; no offset is ever committed
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        left, records = set(partitions), []
        deadline = time.monotonic() + timeout_s
        while left:
            assert time.monotonic() < deadline, f"{topic}: no end of partitions {left} in {timeout_s} s"
            for message in consumer.consume(1000, 0.5):
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition())
                    continue
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                records.append(Raw(partition, offset, message.timestamp()[1], message.key(), message.value()))
    finally:
        consumer.close()
    return sorted(records)


# ---- schemas, from the files or from the paths of a schema registry -------------------------------------------------


class Schemas:
    """Avro schemas by the id in the wire format."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def _fetch(self, schema_id: int) -> str:
        raise KeyError(f"schema {schema_id} is not known")

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """The record in `value`; every byte must be used."""
        assert value is not None
        assert value[0] == 0, f"magic byte is {value[0]}"
        schema_id = struct.unpack(">I", value[1:5])[0]
        if schema_id not in self._known:
            self._known[schema_id] = fastavro.parse_schema(json.loads(self._fetch(schema_id)))
        body = io.BytesIO(value[5:])
        fields = fastavro.schemaless_reader(body, self._known[schema_id], None)
        assert body.tell() == len(value) - 5, "bytes after the record"
        assert isinstance(fields, dict)
        return fields


class FileSchemas(Schemas):
    """From the `.avsc` files: the id is the first 31 bits of SHA-256 of the minified JSON."""

    def __init__(self, folder: Path = AVSC_DIR) -> None:
        super().__init__()
        self._texts = {}
        for path in folder.glob("*.avsc"):
            text = json.dumps(json.loads(path.read_text("utf-8")), separators=(",", ":"), ensure_ascii=False)
            self._texts[int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1] = text

    def _fetch(self, schema_id: int) -> str:
        return self._texts[schema_id]


class RegistrySchemas(Schemas):
    """From `GET /schemas/ids/{id}`, the token as Basic password."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._url, self._basic = url, base64.b64encode(b"checker:" + token.encode()).decode()

    def _fetch(self, schema_id: int) -> str:
        headers = {"Authorization": f"Basic {self._basic}"}
        request = urllib.request.Request(f"{self._url}/schemas/ids/{schema_id}", headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            text: str = json.load(answer)["schema"]
        return text


DETAILS = (
    *("placed", "imported", "cancel", "cut", "payment", "refund_request", "refund", "dispute", "stock", "shipment", "attention"),
    "metadata",
)

# ---- the promises ---------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """The decoded records and the problems in them. Empty `problems`: every promise holds.

    `copied_from`: the id of the topic of commands of the ledger that was copied; its commands are not here.
    """

    events: list[Decoded]
    refusals: list[Decoded]
    commands: list[Decoded]
    orders: dict[str, Folded] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    copied_from: bytes | None = None

    def accepted(self) -> dict[str, str]:
        """Order by accepted command id."""
        return {event.fields["command_id"]: event.fields["order_id"] for event in self.events}


def read_ledger(bootstrap: str, prefix: str = "", schemas: Schemas | None = None, copied_from: bytes | None = None) -> Ledger:
    """Read the three topics as any client of the cluster can, and check them."""
    schemas = schemas or FileSchemas()
    # Answers first: the commands read afterwards then contain what they answer, even while the ledger works.
    events, refusals = (
        [Decoded(raw, schemas.decode(raw.value)) for raw in read_topic(bootstrap, f"{prefix}order-{name}")]
        for name in ("events", "refusals")
    )
    commands = [_command(raw, schemas) for raw in read_topic(bootstrap, f"{prefix}order-commands")]
    return check(Ledger(events, refusals, commands, copied_from=copied_from))


def read_settled_ledger(
    bootstrap: str, prefix: str = "", schemas: Schemas | None = None, patience_s: float = PATIENCE_S
) -> Ledger:
    """As `read_ledger`, once every command has its answer, or after `patience_s`: the ledger's loops may send one at any time."""
    deadline = time.monotonic() + patience_s
    while True:
        ledger = read_ledger(bootstrap, prefix, schemas)
        if not any(problem.endswith(UNANSWERED) for problem in ledger.problems) or time.monotonic() > deadline:
            return ledger
        time.sleep(0.2)


def _command(raw: Raw, schemas: Schemas) -> Decoded:
    """A command; without fields when its bytes are not one, because anybody may write to that topic."""
    try:
        return Decoded(raw, schemas.decode(raw.value))
    except Exception:  # a decoder may raise anything on junk
        return Decoded(raw, {"command_id": None})


def check(ledger: Ledger) -> Ledger:
    """Check every promise; broken ones are added to `ledger.problems`."""
    _check_chain(ledger)
    _check_orders(ledger)
    _check_outcomes(ledger)
    _check_answers(ledger)
    _check_completeness(ledger)
    return ledger


def _where(record: Decoded) -> str:
    return f"{record.raw.partition}-{record.raw.offset}"


def _check_chain(ledger: Ledger) -> None:
    """Each event names the hash of its partition's previous Avro body; the first names zeros."""
    last: dict[int, bytes] = {}
    for event in ledger.events:
        expected = last.get(event.raw.partition, bytes(32))
        if event.fields["prev_hash"] != expected:
            ledger.problems.append(f"chain broken at {_where(event)}")
        assert event.raw.value is not None
        last[event.raw.partition] = hashlib.sha256(event.raw.value[5:]).digest()


def _check_orders(ledger: Ledger) -> None:
    """Versions are dense, times do not fall, the summary agrees with the details, an order is in one partition."""
    homes: dict[str, int] = {}
    for event in ledger.events:
        f, where = event.fields, _where(event)
        order_id = f["order_id"]
        if event.raw.key != order_id.encode():
            ledger.problems.append(f"{where}: key {event.raw.key!r} is not {order_id}")
        if homes.setdefault(order_id, event.raw.partition) != event.raw.partition:
            ledger.problems.append(f"{where}: {order_id} is in two partitions")
        order = ledger.orders.get(order_id)
        if order is None:
            if f["type"] not in ("OrderPlaced", "OrderImported"):
                ledger.problems.append(f"{where}: {order_id} begins with {f['type']}")
                continue
            order = ledger.orders[order_id] = Folded.placed(f)
            if order.total_minor != f["total_minor"]:
                total = order.total_minor
                ledger.problems.append(f"{where}: total is {f['total_minor']}, lines and adjustments come to {total}")
        _check_step(ledger, order, f, where)


def _check_step(ledger: Ledger, order: Folded, f: dict[str, Any], where: str) -> None:
    if f["version"] != order.version + 1:
        ledger.problems.append(f"{where}: {order.order_id} version {f['version']} after {order.version}")
    if f["occurred_at"] < order.occurred_at:
        ledger.problems.append(f"{where}: {order.order_id} time went back")
    ledger.problems += [f"{where}: {order.order_id} v{f['version']} {line}" for line in order.take(f)]
    for name in ("customer_id", "currency", "total_minor", "captured_minor", "refunded_minor", "status"):
        if f[name] != getattr(order, name):
            ledger.problems.append(f"{where}: {order.order_id} v{f['version']} {name} {f[name]}, not {getattr(order, name)}")
    details = [name for name in DETAILS if f[name] is not None]
    if len(details) != 1:
        ledger.problems.append(f"{where}: {f['type']} has the details {details}")


def _check_outcomes(ledger: Ledger) -> None:
    """One event per accepted command, one refusal per refused one and body; never both."""
    accepted: dict[str, str] = {}
    for event in ledger.events:
        command_id = event.fields["command_id"]
        if command_id in accepted:
            ledger.problems.append(f"{_where(event)}: {command_id} was accepted before, at {accepted[command_id]}")
        accepted[command_id] = _where(event)
    refused: dict[tuple[str, bytes], str] = {}
    for refusal in ledger.refusals:
        f = refusal.fields
        command_id = f["command_id"]
        if command_id is None:
            continue  # undecodable: identified by its position alone
        body = (command_id, f["fingerprint"])
        if body in refused:
            ledger.problems.append(f"{_where(refusal)}: {command_id} was refused before, at {refused[body]}")
        refused[body] = _where(refusal)
        if f["code"] != "idempotency_key_reused" and command_id in accepted:
            ledger.problems.append(f"{_where(refusal)}: {command_id} refused, and accepted at {accepted[command_id]}")


def _check_answers(ledger: Ledger) -> None:
    """A command record has at most one answer, in its own partition; answers follow the order of the command log."""
    commands = {(c.raw.partition, c.raw.offset): c for c in ledger.commands}
    answered: dict[tuple[bytes, int, int], str] = {}
    for answers in (ledger.events, ledger.refusals):
        last: dict[tuple[bytes, int], int] = defaultdict(lambda: -1)
        for answer in answers:
            f, where = answer.fields, _where(answer)
            place = (f["command_log"], answer.raw.partition, f["command_offset"])
            if place in answered:
                ledger.problems.append(f"{where}: command {place[1:]} was answered before, at {answered[place]}")
            answered[place] = where
            if f["command_offset"] <= last[place[:2]]:
                ledger.problems.append(f"{where}: answers command {f['command_offset']} after {last[place[:2]]}")
            last[place[:2]] = f["command_offset"]
            if f["batch_first"] > f["command_offset"]:
                ledger.problems.append(f"{where}: batch begins at {f['batch_first']}, behind command {f['command_offset']}")
            if f["command_log"] == ledger.copied_from:
                continue
            command = commands.get(place[1:])
            if command is None or f["command_id"] not in (None, command.fields["command_id"]):
                ledger.problems.append(f"{where}: answers command {place[1:]}, which is not {f['command_id']}")


def _check_completeness(ledger: Ledger) -> None:
    """Every command on the topic was answered: itself, or the same request before it."""
    answered = {(a.fields["command_id"], a.fields["fingerprint"]) for a in (*ledger.events, *ledger.refusals)}
    kept = {(r.raw.partition, r.fields["command_offset"]): r.fields["original"] for r in ledger.refusals}
    for command in ledger.commands:
        f = command.fields
        if f["command_id"] is None:
            if kept.get((command.raw.partition, command.raw.offset)) != command.raw.value:
                ledger.problems.append(f"unreadable command {_where(command)} is not kept")
        elif (f["command_id"], f["fingerprint"]) not in answered:
            ledger.problems.append(f"command {_where(command)} ({f['operation']} {f['command_id']}) {UNANSWERED}")


def describe(problems: Iterable[str], most: int = 20) -> str:
    """The first problems, for an assertion's message."""
    listed = list(problems)
    return "\n".join([f"{len(listed)} problems", *listed[:most]])
