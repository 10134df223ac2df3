"""Real `commands` processes over the in-memory log, and what a reader of it sees."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from commands.idempotency import command_id_of, order_id_of
from commands.messages import CancelOrder, OrderCommand, PlaceOrder, command_codec
from commands.processor.process import CommandsProcess
from ledger.clock import now_ms
from ledger.errors import LedgerError
from ledger.events import NO_HASH, Line, OrderEvent, OrderRefusal
from ledger.log import EventLog, NewRecord, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec, link_of, refusal_codec
from ledger.topics import Topics, TopicSpec
from tests.support.patience import PATIENCE_S

PARTITIONS, WRITERS = 4, 2
TOPICS = Topics()


class KeptStore(MemoryStore):
    """A store that keeps its rows when a process closes it, as a disk does."""

    def close(self) -> None:
        pass


@dataclass
class Running:
    process: CommandsProcess
    thread: threading.Thread
    codes: list[int] = field(default_factory=list)
    refused: list[LedgerError] = field(default_factory=list)  # what it ended with, before it ran


class Ledger:
    """A log, processes over it, and a reader's view of it."""

    def __init__(self, specs: Iterable[TopicSpec] = TOPICS.specs(PARTITIONS, WRITERS)) -> None:
        self.ahead_ms = 0  # of the log's clock
        self.log = MemoryLog(lambda: now_ms() + self.ahead_ms)
        self.log.ensure_topics(specs)
        self.sender = self.log.sender("test")
        self.stores: dict[str, KeptStore] = {}
        self.running: list[Running] = []

    def start(self, instance: str = "one", log: EventLog | None = None) -> Running:
        """Start a `commands` process; its stores outlive it, by name. `log`: this log as the process sees it."""

        def open_store(name: str) -> KeptStore:
            return self.stores.setdefault(f"{instance}/{name}", KeptStore())

        process = CommandsProcess(log or self.log, open_store, TOPICS, "app", instance)

        def run() -> None:
            try:
                running.codes.append(process.run())
            except LedgerError as exc:
                running.refused.append(exc)

        running = Running(process, threading.Thread(target=run, daemon=True))
        self.running.append(running)
        running.thread.start()
        return running

    def stop(self, running: Running) -> None:
        running.process.stop()
        running.thread.join(PATIENCE_S)
        assert not running.thread.is_alive()
        self.running.remove(running)

    def send(self, command: OrderCommand | bytes, order_id: str | None = None) -> None:
        value = command if isinstance(command, bytes) else command_codec().encode(command)
        key = (order_id or (command.order_id if isinstance(command, OrderCommand) else "?")).encode()
        errors: list[object] = []
        self.sender.send(
            NewRecord(TOPICS.commands, self.log.partition_for(key, PARTITIONS), key, value),
            lambda acked, error: errors.append(error) if error else None,
        )
        assert self.sender.flush(PATIENCE_S) == 0
        assert not errors

    def records(self, topic: str) -> list[Record]:
        tps = self.log.starts(TopicPartition(topic, p) for p in range(PARTITIONS))
        reader = self.log.reader("check", eof=True)
        reader.assign(tps)
        records_read: list[Record] = []
        while len(reader.reached_end()) < PARTITIONS:
            records_read += reader.poll(1000, 0.05)
        reader.close()
        return records_read

    def events(self) -> list[OrderEvent]:
        return [event_codec().decode(r.value) for r in self.records(TOPICS.events)]

    def refusals(self) -> list[OrderRefusal]:
        return [refusal_codec().decode(r.value) for r in self.records(TOPICS.refusals)]

    def answers(self) -> Counter[str]:
        ids = [e.command_id for e in self.events()] + [r.command_id or "?" for r in self.refusals()]
        return Counter(ids)

    def wait_for(self, holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)


def place(key: str, fingerprint: bytes = b"f" * 16, total: int = 1000) -> OrderCommand:
    command_id = command_id_of("web", "c-1", "PlaceOrder", "-", key)
    line = Line("product", "espresso-1kg", "Espresso 1 kg", 1, total)
    return OrderCommand(
        command_id=command_id,
        order_id=order_id_of(command_id),
        fingerprint=fingerprint,
        operation="PlaceOrder",
        actor="gateway:web",
        customer_id="c-1",
        place=PlaceOrder("EUR", total, (line,), (), bytes(32), 60_000),
    )


def places(word: str) -> list[OrderCommand]:
    """New orders, at least one in every partition."""
    orders: list[OrderCommand] = []
    while {partition_for(order.order_id.encode(), PARTITIONS) for order in orders} != set(range(PARTITIONS)):
        orders.append(place(f"{word}{len(orders)}"))
    return orders


def cancel(of: OrderCommand, key: str) -> OrderCommand:
    return OrderCommand(
        command_id=command_id_of("web", "c-1", "CancelOrder", of.order_id, key),
        order_id=of.order_id,
        fingerprint=b"c" * 16,
        operation="CancelOrder",
        actor="gateway:web",
        customer_id="c-1",
        cancel=CancelOrder("customer_request"),
    )


def assert_log_is_whole(ledger: Ledger, command_ids: set[str]) -> None:
    """Every command answered once, versions dense, chain unbroken, command offsets answered at most once."""
    answers = ledger.answers()
    assert set(answers) == command_ids
    assert set(answers.values()) <= {1}
    versions: dict[str, int] = {}
    chain = dict.fromkeys(range(PARTITIONS), NO_HASH)
    for record in ledger.records(TOPICS.events):
        event = event_codec().decode(record.value)
        assert event.version == versions.get(event.order_id, 0) + 1
        versions[event.order_id] = event.version
        assert event.prev_hash == chain[record.partition]
        chain[record.partition] = link_of(record.value or b"")
