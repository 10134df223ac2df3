"""The daily sweep of the provider: each process reports what happened to the orders that it decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import pytest

from commands.messages import OrderCommand, RecordDispute, command_codec
from commands.processor.desk import Desk
from commands.processor.order_book import OrderBook
from commands.reconciler import loop
from commands.reconciler.loop import Reconciler
from commands.reconciler.payment_port import Sighting
from commands.reconciler.performing import Ports
from ledger import events as e
from ledger.envelope import Written
from ledger.log import Record, TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from tests.support.order_commands import PLACED_AT, order_command
from tests.support.patience import PATIENCE_S, until
from tests.support.small_shop import PLACE, RESERVED, TOPICS, Clock, Stock

PARTITIONS = 2
ORDERS = [
    next(name for name in map("ord_{}".format, range(100)) if partition_for(name.encode(), PARTITIONS) == p) for p in (0, 1)
]
OF_NOBODY = Sighting("", (), "pi_of_another_shop")


class Provider:
    """A payment provider at which banks opened a dispute about each order."""

    name = "stripe"

    async def recent(self, since_ms: int) -> AsyncIterator[Sighting]:
        for order_id in ORDERS:
            yield Sighting(order_id, (RecordDispute(e.DISPUTE_OPENED, f"dp_{order_id}", 1000, "fraudulent"),), f"pi_{order_id}")
        yield OF_NOBODY

    async def close(self) -> None:
        pass


def stored() -> MemoryStore:
    """Both orders, as their writers store them."""
    store = MemoryStore()
    for partition, order_id in enumerate(ORDERS):
        desk = Desk(store, partition, PARTITIONS, TOPICS, bytes(16))
        value = command_codec().encode(order_command(PLACE, order_id))
        record = Record(TOPICS.commands, partition, 0, PLACED_AT, order_id.encode(), value)
        assert desk.deal(record, Written(bytes(16), 0, 1)) is not None
        store.write(desk.rows())
    return store


@contextmanager
def reconciling(log: MemoryLog, clock: Clock, partitions: Sequence[int]) -> Iterator[Reconciler]:
    """A reconciler that owns these partitions, until the block ends."""
    store, sender, fatal = stored(), log.sender("reconciler"), list[BaseException]()

    def ports() -> Ports:
        return Ports(Provider(), {"product": Stock(lambda _: RESERVED)})  # type: ignore[arg-type]  # no order here is paid

    reconciler = Reconciler(
        ports,
        lambda partition: OrderBook(store),
        lambda order_id: partition_for(order_id.encode(), PARTITIONS),
        sender,
        TOPICS,
        fatal.append,
        LogClock(clock, clock),
    )
    reconciler.start()
    try:
        reconciler.own(partitions)
        yield reconciler
    finally:
        reconciler.stop(PATIENCE_S)
        sender.close()
    assert fatal == []


def disputed(log: MemoryLog) -> set[str]:
    """Orders of which a dispute was reported."""
    reader = log.reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.commands, p): 0 for p in range(PARTITIONS)})
    records: list[Record] = []
    while len(reader.reached_end()) < PARTITIONS:
        records += reader.poll(1000, 0.05)
    reader.close()
    commands: list[OrderCommand] = [command_codec().decode(record.value) for record in records]
    return {command.order_id for command in commands if command.record_dispute}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    """An empty log; sweeps follow each other without a pause of a day."""
    monkeypatch.setattr(loop, "FIRST_SWEEP_S", 0.05)
    monkeypatch.setattr(loop, "SWEEP_EVERY_S", 0.05)
    log = MemoryLog(Clock())
    log.ensure_topics(TOPICS.specs(PARTITIONS, 1))
    return log


@pytest.mark.parametrize("partition", [0, 1])
def test_a_process_reports_the_disputes_of_its_own_orders_whatever_partitions_it_owns(log: MemoryLog, partition: int) -> None:
    with reconciling(log, Clock(), [partition]) as reconciler:
        until(lambda: reconciler.done["sweep found"])
    assert disputed(log) == {ORDERS[partition]}


def test_every_dispute_is_reported_by_one_of_two_processes(log: MemoryLog) -> None:
    with reconciling(log, Clock(), [0]) as first, reconciling(log, Clock(), [1]) as second:
        until(lambda: disputed(log) == set(ORDERS))
        until(lambda: first.done["sweep unknown"] or second.done["sweep unknown"])
    assert not (first.done["sweep unknown"] and second.done["sweep unknown"]), "one process counts the payment of nobody"


def test_a_process_without_partitions_asks_for_nothing(log: MemoryLog) -> None:
    with reconciling(log, Clock(), []) as idle, reconciling(log, Clock(), [0, 1]) as busy:
        until(lambda: busy.done["sweep found"] > 4)
    assert not {name for name in idle.done if name.startswith("sweep")}
