"""The smallest shop: a reconciler over a log in memory, with ports that the test directs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from commands.messages import OrderCommand, RecordStock, command_codec
from commands.processor.desk import Desk
from commands.processor.order_book import OrderBook
from commands.reconciler.answers import Answer, Done
from commands.reconciler.loop import Reconciler
from commands.reconciler.performing import Ports
from ledger import events as e
from ledger.envelope import Written
from ledger.events import Line, Units
from ledger.log import NewRecord, OnAck, Record, Sender, TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.topics import Topics
from tests.support.order_commands import PLACED_AT, WHOLE, order_command
from tests.support.order_model import Command
from tests.support.patience import PATIENCE_S

TOPICS = Topics()


PLACE = next(c for c in WHOLE if c["op"] == "PlaceOrder")
REJECTED: Command = {"op": "RecordStock", "service": "product", "fact": "StockRejected", "reason": "out_of_stock"}


class Clock:
    def __init__(self) -> None:
        self.now_ms = PLACED_AT + 1

    def __call__(self) -> int:
        return self.now_ms


class Stock:
    """A stock service as its door presents it; `says` answers every call."""

    name = "product"

    def __init__(self, says: Callable[[str], Answer]) -> None:
        self.says, self.closed = says, False

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        return self.says(order_id)

    async def release(self, order_id: str, key: str) -> Answer:
        return self.says(order_id)

    async def release_part(self, order_id: str, lines: Sequence[Units], part: int, key: str) -> Answer:
        return self.says(order_id)

    async def knows_parts(self) -> bool | None:
        return True

    async def close(self) -> None:
        self.closed = True


class NoPayments:
    """No order here is paid."""

    name = "stripe"

    async def close(self) -> None:
        pass


class HalfSender:
    """A sender; records for the partition `silent` wait until `answer`."""

    def __init__(self, sender: Sender, silent: int | None) -> None:
        self._sender, self._silent, self._lock = sender, silent, threading.Lock()
        self.waiting: list[tuple[NewRecord, OnAck]] = []

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        with self._lock:
            if record.partition == self._silent:
                self.waiting.append((record, on_ack))
            else:
                self._sender.send(record, on_ack)

    def answer(self) -> None:
        with self._lock:
            self._silent = None
            for record, on_ack in self.waiting:
                self._sender.send(record, on_ack)

    def flush(self, timeout_s: float) -> int:
        return self._sender.flush(timeout_s)

    def close(self) -> None:
        self._sender.close()


class Shop:
    """Placed orders in a store, a reconciler that owns those of partition 0, and the commands it sends.

    `clock` is that of the log, and moves the pauses; the machine's is `machine_ahead_ms` ahead of it. The stock of `rejected`
    orders was rejected. Commands of the partition `silent` get no answer at first.
    """

    def __init__(
        self,
        orders: Sequence[str],
        says: Callable[[str], Answer],
        kind: type[Stock] = Stock,
        machine_ahead_ms: int = 0,
        partitions: int = 1,
        rejected: Collection[str] = (),
        silent: int | None = None,
    ) -> None:
        self.clock, self.partitions, store = Clock(), partitions, MemoryStore()
        self.log = MemoryLog(self.clock)
        self.log.ensure_topics(TOPICS.specs(partitions, 1))
        for partition in range(partitions):
            desk = Desk(store, partition, partitions, TOPICS, bytes(16))
            commands = [order_command(PLACE, one, f"cmd_{one}") for one in orders if self.partition_of(one) == partition]
            commands += [order_command(REJECTED, one, f"no_{one}") for one in rejected if self.partition_of(one) == partition]
            for offset, command in enumerate(commands):
                key, value = command.order_id.encode(), command_codec().encode(command)
                record = Record(TOPICS.commands, partition, offset, PLACED_AT, key, value)
                assert desk.deal(record, Written(bytes(16), 0, 1)) is not None
            store.write(desk.rows())
        self.stocks: list[Stock] = []
        self.fatal: list[BaseException] = []
        self.sender = HalfSender(self.log.sender("reconciler"), silent)

        def ports() -> Ports:
            self.stocks.append(kind(says))
            return Ports(NoPayments(), {"product": self.stocks[-1]})  # type: ignore[arg-type]  # no order here is paid

        self.reconciler = Reconciler(
            ports,
            lambda partition: OrderBook(store),
            self.partition_of,
            self.sender,
            TOPICS,
            self.fatal.append,
            LogClock(lambda: self.clock() + machine_ahead_ms, self.clock),
        )

    def __enter__(self) -> Shop:
        self.reconciler.start()
        self.reconciler.own([0])
        return self

    def __exit__(self, *_: object) -> None:
        self.reconciler.stop(PATIENCE_S)
        self.sender.close()

    def partition_of(self, order_id: str) -> int:
        return partition_for(order_id.encode(), self.partitions)

    def sent(self) -> list[OrderCommand]:
        tps = {TopicPartition(TOPICS.commands, p): 0 for p in range(self.partitions)}
        reader = self.log.reader("test", eof=True)
        reader.assign(tps)
        records: list[Record] = []
        while len(reader.reached_end()) < self.partitions:
            records += reader.poll(1000, 0.05)
        reader.close()
        return [command_codec().decode(record.value) for record in records]

    def until(self, holds: Callable[[], object], step_ms: int = 0) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert not self.fatal
            assert time.monotonic() < deadline
            self.clock.now_ms += step_ms
            self.reconciler.clock_moved()
            time.sleep(0.01)


RESERVED = Done((RecordStock(e.STOCK_RESERVED, "product", "r-1"),))
