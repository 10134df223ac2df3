"""A topic of events to fold: whole lives of orders, decided by the product's own desk and committed by its own writer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from commands.desk import Desk
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
from ledger import events as e
from ledger.envelope import Written
from ledger.kafka_log import KafkaLog
from ledger.log import NewRecord, Record
from ledger.store import MemoryStore
from ledger.topics import Topics
from ledger.transitions import Operation
from tests.benchmarks import workload
from tests.benchmarks.bench import Incorrect

TOGETHER = 100  # orders that live at the same time
BATCH = 500
COMMAND_LOG = bytes(range(16))


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

    place = PlaceOrder(currency, total, lines, adjustments, bytes(range(32)), 30 * 60_000, body["reference"])
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


def write_lives(log: KafkaLog, topics: Topics, partitions: int, events: int) -> int:
    """Commit `events` events to `topics.events`; how many orders they are about. Raises `Incorrect` if one was refused."""
    log.ensure_topics(topics.specs(partitions, 1))
    stores = [MemoryStore() for _ in range(partitions)]
    desks = [Desk(stores[p], p, topics, COMMAND_LOG) for p in range(partitions)]
    encode = command_codec().encode
    offsets = [0] * partitions
    orders: set[str] = set()
    writer = log.writer("benchmark-lives")
    batch: list[NewRecord] = []
    now_ms = int(time.time() * 1000)
    try:
        writer.start(10)
        for number, command in enumerate(_commands(workload.bodies())):
            key = command.order_id.encode()
            p = log.partition_for(key, partitions)
            record = Record(topics.commands, p, offsets[p], now_ms + number, key, encode(command))
            new = desks[p].deal(record, Written(COMMAND_LOG, offsets[p], 1))
            if new is None or new.topic != topics.events:
                raise Incorrect(f"the life of an order was refused: {command.operation}")
            offsets[p] += 1
            orders.add(command.order_id)
            batch.append(new)
            if len(batch) == BATCH or number + 1 == events:
                writer.transact(batch)
                batch = []
                for store, desk in zip(stores, desks, strict=True):
                    store.write(desk.rows())
                    desk.written()
            if number + 1 == events:
                break
    finally:
        writer.close()
    return len(orders)
