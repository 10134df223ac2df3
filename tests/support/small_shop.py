"""The smallest shop: a reconciler over a log in memory, with ports that the test directs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from commands.messages import OrderCommand, RecordStock, command_codec
from commands.processor.desk import Desk
from commands.processor.order_book import OrderBook
from commands.reconciler.answers import Answer, Done
from commands.reconciler.loop import Reconciler
from commands.reconciler.performing import Ports
from ledger import events as e
from ledger.envelope import Written
from ledger.events import Line, Units
from ledger.log import Record, TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from tests.support.order_commands import PLACED_AT, WHOLE, order_command

TOPICS = Topics()


PLACE = next(c for c in WHOLE if c["op"] == "PlaceOrder")


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


class Shop:
    """Placed orders in a store, a reconciler that owns them, and the commands it sends.

    `clock` is that of the log, and moves the pauses; the machine's is `machine_ahead_ms` ahead of it.
    """

    def __init__(
        self, orders: Sequence[str], says: Callable[[str], Answer], kind: type[Stock] = Stock, machine_ahead_ms: int = 0
    ) -> None:
        self.clock, store = Clock(), MemoryStore()
        self.log = MemoryLog(self.clock)
        self.log.ensure_topics(TOPICS.specs(1, 1))
        desk = Desk(store, 0, 1, TOPICS, bytes(16))
        for offset, order_id in enumerate(orders):
            command = order_command(PLACE, order_id, f"cmd_{order_id}")
            record = Record(TOPICS.commands, 0, offset, PLACED_AT, order_id.encode(), command_codec().encode(command))
            assert desk.deal(record, Written(bytes(16), 0, 1)) is not None
        store.write(desk.rows())
        self.stocks: list[Stock] = []
        self.fatal: list[BaseException] = []
        sender = self.log.sender("reconciler")

        def ports() -> Ports:
            self.stocks.append(kind(says))
            return Ports(NoPayments(), {"product": self.stocks[-1]})  # type: ignore[arg-type]  # no order here is paid

        self.reconciler = Reconciler(
            ports,
            lambda partition: OrderBook(store),
            lambda order_id: 0,
            sender,
            TOPICS,
            self.fatal.append,
            LogClock(lambda: self.clock() + machine_ahead_ms, self.clock),
        )
        self._close = sender.close

    def __enter__(self) -> Shop:
        self.reconciler.start()
        self.reconciler.own([0])
        return self

    def __exit__(self, *_: object) -> None:
        self.reconciler.stop(60)
        self._close()

    def sent(self) -> list[OrderCommand]:
        tp = TopicPartition(TOPICS.commands, 0)
        reader = self.log.reader("test", eof=True)
        reader.assign({tp: 0})
        records: list[Record] = []
        while tp not in reader.reached_end():
            records += reader.poll(1000, 0.05)
        reader.close()
        return [command_codec().decode(record.value) for record in records]

    def until(self, holds: Callable[[], object], step_ms: int = 0) -> None:
        deadline = time.monotonic() + 40
        while not holds():
            assert not self.fatal
            assert time.monotonic() < deadline
            self.clock.now_ms += step_ms
            self.reconciler.clock_moved()
            time.sleep(0.01)


RESERVED = Done((RecordStock(e.STOCK_RESERVED, "product", "r-1"),))
