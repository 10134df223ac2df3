"""A topic of events to fold: whole lives of orders, decided by the product's own desk and committed by its own writer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from commands.idempotency import command_id_of, order_id_of
from commands.messages import (
    OrderCommand,
    PlaceOrder,
    RecordPayment,
    RecordStock,
    RequestPayment,
    ShipOrder,
    command_codec,
)
from commands.processor.desk import Desk
from ledger import events as e
from ledger.envelope import Written
from ledger.kafka.log import KafkaLog
from ledger.log import NewRecord, Record
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.topics import Topics
from ledger.transitions import Operation
from tests.benchmarks import workload
from tests.benchmarks.bench import Incorrect

TOGETHER = 100  # orders that are open at the same time
BATCH = 500
COMMAND_LOG = bytes(range(16))
CONTACT_DIGEST = bytes(range(32))


def _life(order_number: int, body: dict[str, Any]) -> Iterator[OrderCommand]:
    """The commands of one order, from cart to door."""
    customer = workload.customer_of(order_number)
    placed_id = command_id_of("web", customer, "PlaceOrder", "-", f"life-{order_number}")
    order_id = order_id_of(placed_id)
    lines = tuple(e.Line(**line) for line in body["lines"])
    adjustments = tuple(e.Adjustment(**adjustment) for adjustment in body["adjustments"])
    total, currency = body["total_minor"], body["currency"]

    def command(operation: Operation, actor: str, **payload: Any) -> OrderCommand:
        name = f"{operation}-{payload}"
        command_id = placed_id if operation is Operation.PLACE_ORDER else command_id_of(actor, customer, name, order_id, "1")
        return OrderCommand(
            command_id=command_id,
            order_id=order_id,
            fingerprint=command_id[-16:].encode(),
            operation=operation.value,
            actor=actor,
            customer_id=customer if actor.startswith("gateway") else "",
            **payload,
        )

    place = PlaceOrder(currency, total, lines, adjustments, CONTACT_DIGEST, 30 * 60_000, body["reference"])
    yield command(Operation.PLACE_ORDER, "gateway:web", place=place)
    for service in sorted({line.service for line in lines}):
        stock = RecordStock(e.STOCK_RESERVED, service, reservation_ref=f"res-{order_number}")
        yield command(Operation.RECORD_STOCK, "reconciler", record_stock=stock)
    yield command(Operation.REQUEST_PAYMENT, "gateway:web", request_payment=RequestPayment(total, currency))
    reference = f"pi_{order_number:024d}"
    opened = RecordPayment(e.PAYMENT_OPENED, 1, provider_ref=reference)
    yield command(Operation.RECORD_PAYMENT, "reconciler", record_payment=opened)
    captured = RecordPayment(e.PAYMENT_CAPTURED, 1, amount_minor=total, provider_ref=reference)
    yield command(Operation.RECORD_PAYMENT, "stripe", record_payment=captured)
    yield command(Operation.START_FULFILMENT, "admin:desk")
    yield command(Operation.SHIP_ORDER, "admin:desk", ship=ShipOrder("DHL", f"{order_number:020d}"))
    yield command(Operation.CONFIRM_DELIVERY, "admin:desk")


def _commands(bodies: list[dict[str, Any]]) -> Iterator[OrderCommand]:
    """Lives of `TOGETHER` orders at a time, step by step."""
    number = 0
    while True:
        lives = [_life(number + n, bodies[(number + n) % len(bodies)]) for n in range(TOGETHER)]
        number += TOGETHER
        while lives:
            for life in list(lives):
                if (command := next(life, None)) is None:
                    lives.remove(life)
                else:
                    yield command


def decided_lives(topics: Topics, partitions: int, events: int, now_ms: int | None = None) -> Iterator[NewRecord]:
    """`events` records of `order-events`, decided by a desk per partition. Raises `Incorrect` if a command was refused."""
    stores = [MemoryStore() for _ in range(partitions)]
    desks = [Desk(stores[p], p, partitions, topics, COMMAND_LOG) for p in range(partitions)]
    encode = command_codec().encode
    offsets = [0] * partitions
    began_ms = now_ms or int(time.time() * 1000)
    for number, command in enumerate(itertools.islice(_commands(workload.bodies()), events)):
        key = command.order_id.encode()
        p = partition_for(key, partitions)
        record = Record(topics.commands, p, offsets[p], began_ms + number, key, encode(command))
        new = desks[p].deal(record, Written(COMMAND_LOG, offsets[p], 1))
        if new is None or new.topic != topics.events:
            raise Incorrect(f"the life of an order was refused: {command.operation}")
        offsets[p] += 1
        yield new
        if number % BATCH == 0:
            for store, desk in zip(stores, desks, strict=True):
                store.write(desk.rows())
                desk.written()


def read_back(records: Iterable[NewRecord]) -> Iterator[Record]:
    """The records as a reader of a log would get them, consecutive in each partition, without gaps."""
    offsets: dict[tuple[str, int], int] = {}
    for new in records:
        offset = offsets[new.topic, new.partition] = offsets.get((new.topic, new.partition), -1) + 1
        yield Record(new.topic, new.partition, offset, new.timestamp_ms, new.key, new.value, new.headers)


def write_lives(log: KafkaLog, topics: Topics, partitions: int, events: int) -> int:
    """Commit `events` events to `topics.events`. Returns the number of their orders. Raises `Incorrect` if one was refused."""
    log.ensure_topics(topics.specs(partitions, 1))
    orders: set[bytes] = set()
    writer = log.writer(f"{topics.prefix}benchmark-lives")
    try:
        writer.start(10)
        records = decided_lives(topics, partitions, events)
        while batch := list(itertools.islice(records, BATCH)):
            orders |= {record.key or b"" for record in batch}
            writer.transact(batch)
    finally:
        writer.close()
    return len(orders)
