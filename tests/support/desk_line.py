"""One partition of the log with the loop around its desk: batches, crashes before and after the commit, take-overs, rebuilds."""

from __future__ import annotations

import random

import msgspec
from msgspec.structs import replace

from commands.messages import OrderCommand, command_codec
from commands.processor.desk import Desk, Meta
from ledger.envelope import Written
from ledger.events import OrderEvent, OrderRefusal
from ledger.log import NewRecord, Record
from ledger.memory.store import MemoryStore
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics
from tests.support import order_model as model
from tests.support.order_commands import PLACED_AT, order_command

TOPICS = Topics()
COMMAND_LOG = bytes(range(16))
Row = dict[bytes, bytes]


class Line:
    """One partition: its command log, its two outcome logs, its desk and store."""

    def __init__(self, seed: int = 0) -> None:
        self.commands: list[Record] = []
        self.log: dict[str, list[Record]] = {TOPICS.events: [], TOPICS.refusals: []}
        self.store = MemoryStore()
        self.desk = Desk(self.store, 0, 1, TOPICS, COMMAND_LOG)
        self.read = 0  # index of the next command to process
        self.epoch = 1
        self._gaps = random.Random(seed)

    def send(self, key: bytes | None, value: bytes | None, at: int = PLACED_AT) -> Record:
        offset = self._next(self.commands)
        self.commands.append(Record(TOPICS.commands, 0, offset, at, key, value))
        return self.commands[-1]

    def order(self, c: model.Command, order_id: str = "ord_1", command_id: str = "", at: int = PLACED_AT) -> OrderCommand:
        command = order_command(c, order_id, command_id or f"cmd_{len(self.commands)}")
        self.send(order_id.encode(), command_codec().encode(command), at)
        return command

    def deal(self, commit: bool = True, store: bool = True) -> list[NewRecord | None]:
        """Process everything sent: one batch, one transaction."""
        todo = self.commands[self.read :]
        written = Written(COMMAND_LOG, todo[0].offset, self.epoch)
        answers = [self.desk.deal(record, written) for record in todo]
        if not commit:
            self.take_over()
            return answers
        positions = self.append([a for a in answers if a is not None])
        if not store:
            self.take_over()
            return answers
        for topic, position in positions.items():
            self.desk.landed(topic, position)
        self.desk.passed(todo[-1].offset)
        self.read = len(self.commands)
        self.save()
        return answers

    def append(self, records: list[NewRecord]) -> dict[str, int]:
        """Append a transaction: offsets rise, with a gap for its marker now and then."""
        for new in records:
            offset = self._next(self.log[new.topic])
            self.log[new.topic].append(Record(new.topic, new.partition, offset, new.timestamp_ms, new.key, new.value))
        return {topic: log[-1].offset + 1 for topic, log in self.log.items() if log}

    def _next(self, log: list[Record]) -> int:
        return (log[-1].offset + 1 if log else 0) + self._gaps.choice((0, 0, 1))

    def save(self) -> None:
        self.store.write(self.desk.rows())
        self.desk.written()

    def fold(self, records: list[Record]) -> None:
        for record in records:
            self.desk.fold(record)
        self.save()

    def take_over(self) -> None:
        """Another process takes over: the store's rows, then the log after them, then commands from the last batch's first."""
        self.desk = Desk(self.store, 0, 1, TOPICS, COMMAND_LOG)
        self.epoch += 1
        meta = self.desk.meta
        for topic, position in ((TOPICS.events, meta.events), (TOPICS.refusals, meta.refusals)):
            self.fold([record for record in self.log[topic] if record.offset >= position])
        self.read = next((i for i, r in enumerate(self.commands) if r.offset >= self.desk.meta.resume), len(self.commands))

    def rebuilt(self, seed: int) -> Desk:
        """A desk folded from the log alone, the two topics in any interleaving."""
        todo = {topic: list(records) for topic, records in self.log.items()}
        rng, store = random.Random(seed), MemoryStore()
        desk = Desk(store, 0, 1, TOPICS, COMMAND_LOG)
        while any(todo.values()):
            desk.fold(todo[rng.choice([topic for topic, left in todo.items() if left])].pop(0))
            if rng.random() < 0.3:
                store.write(desk.rows())
                desk.written()
        store.write(desk.rows())
        desk.written()
        return desk


def rows_of(desk: Desk) -> tuple[Row, Meta]:
    """Every row of the desk's store, and the position separately: the loop knows more of it than the log says."""
    rows = dict(desk._store.scan(b""))
    meta = msgspec.msgpack.decode(rows.pop(b"0/meta"), type=Meta)
    return rows, meta


def assert_same_rows(line: Line, seed: int = 1) -> None:
    """The desk that decided and one that only folded its output agree bit for bit."""
    decided, met = rows_of(line.desk)
    folded, read = rows_of(line.rebuilt(seed))
    assert decided == folded
    assert (met.events, met.refusals, met.chain, met.epoch) == (read.events, read.refusals, read.chain, read.epoch)
    assert met.dealt >= read.dealt
    assert met.resume >= read.resume


def event_in(answer: NewRecord | None) -> OrderEvent:
    assert answer is not None
    assert answer.topic == TOPICS.events
    return event_codec().decode(answer.value)


def refusal_in(answer: NewRecord | None) -> OrderRefusal:
    assert answer is not None
    assert answer.topic == TOPICS.refusals
    return refusal_codec().decode(answer.value)


PLACE: model.Command = {"op": "PlaceOrder", "role": "customer"}
PAY: model.Command = {"op": "RequestPayment", "role": "customer", "amount": 1000}
CANCEL: model.Command = {"op": "CancelOrder", "role": "customer", "reason": "other"}


def a_line(*commands: model.Command) -> Line:
    line = Line()
    for c in commands:
        line.order(c)
    if commands:
        line.deal()
    return line


UNDECODABLE = b"\0\0\0\0\1junk"


def bad_event(line: Line, order_id: str, how: str) -> Record:
    """An event record of `order_id` at the end of the log that no correct writer can have written."""
    last = event_codec().decode(next(r.value for r in reversed(line.log[TOPICS.events]) if r.value != UNDECODABLE))
    event = replace(last, order_id=order_id, prev_hash=line.desk.meta.chain, command_id=f"cmd_bad_{how}")
    value = {
        "undecodable": UNDECODABLE,
        "no value": None,
        "version does not follow": event_codec().encode(replace(event, version=77)),
        "unknown type": event_codec().encode(replace(event, type="OrderRevised", version=last.version + 1)),
    }[how]
    line.append([NewRecord(TOPICS.events, 0, order_id.encode(), value, last.occurred_at)])
    return line.log[TOPICS.events][-1]
