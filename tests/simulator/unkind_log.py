"""A log in memory that is as unkind as Kafka, on simulated time.

The slots, transactions and epochs are those of `ledger.memory`. What it adds happens in Kafka, too:

    markers       come after the answer to EndTxn, in each partition at its own time; the next transaction of the id waits
    EndTxn        request lost, reply lost, request repeated: the second copy comes in the middle of the epoch's next transaction
    fencing       between any two records of a transaction; one that stays open for long is aborted, and its writer fenced
    hanging       a marker is never written, and an operator ends the transaction
    answers       late, or none: the broker is unreachable, or one request fails
    readers       get a part of what there is
    senders       a record arrives late, twice, not at all, or without an acknowledgement
    clocks        each partition's leader has its own; records that are more than an hour ahead of it are rejected
    retention     deletes the oldest records, compaction the older records of a key, and tombstones after a while
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from ledger.durations import HOUR_MS
from ledger.errors import Discard, Fenced, LogError, LogUnavailable, Rejected
from ledger.log import Acked, Isolation, NewRecord, OnAck, Record, TopicPartition, refuse_oversized
from ledger.memory.clients import MemoryReader, MemoryWriter
from ledger.memory.log import MemoryLog
from ledger.memory.state import Partition, State, Transaction
from tests.simulator.scheduling import Condition, Scheduler

IDLE = 8  # times as long as asked for, a reader may wait
TRANSACTION_S = 2.0  # then the coordinator aborts it and fences its writer
MARKERS_S = 10.0  # a writer waits for those of its last transaction for so long
Fate = Literal["request lost", "reply lost", "repeated"]


class UnkindState(State):
    """`skew_ms`: by partition, how far the clock of its leader is ahead. `fences`: false in a log that fences nobody."""

    fences = True

    def __init__(self, scheduler: Scheduler, chance: random.Random, wall_ms: Callable[[], int]) -> None:
        super().__init__(lambda: wall_ms() + self.skew_ms.get(self._appending, 0))
        self.changed = Condition(scheduler)  # type: ignore[assignment]  # all that is used of it
        self.scheduler, self.chance = scheduler, chance
        self.skew_ms: dict[int, int] = {}
        self.marker_s = 0.005  # the usual delay of a marker
        self.fates: list[Fate] = []  # of the next EndTxn requests
        self.failing = 0.0  # share of requests without an answer
        self.limits_times = False  # to an hour ahead, as brokers do where the topic does not say otherwise
        self.strays: dict[str, int] = {}  # epochs of EndTxn requests that may arrive again, by transactional id
        self.seen: Counter[str] = Counter()
        self.archive: dict[TopicPartition, list[Record]] = {}  # committed records that retention has deleted
        self.on_append: Callable[[Record], None] | None = None
        self.reading: list[UnkindReader] = []  # that wait for news
        self._appending = 0

    def append(self, record: NewRecord, transaction: Transaction | None) -> Record:
        self._appending = record.partition
        if self.limits_times and record.timestamp_ms - self._clock_ms() > HOUR_MS:
            self.seen["records rejected"] += 1
            raise Rejected(f"{record.topic}/{record.partition}: INVALID_TIMESTAMP")
        stored = super().append(record, transaction)
        self._wake_readers(TopicPartition(record.topic, record.partition), transaction is not None)
        if self.on_append is not None:
            self.on_append(stored)
        return stored

    def mark(self, partition: Partition, transaction: Transaction, state: Literal["committed", "aborted"]) -> None:
        hung = [t for t in partition.open if t.transactional_id == transaction.transactional_id and t.state == "committed"]
        self.seen["confirmed records aborted"] += state == "aborted" and bool(hung)
        super().mark(partition, transaction, state)
        for tp in transaction.first:
            self._wake_readers(tp, only_uncommitted=False)

    def _wake_readers(self, tp: TopicPartition, only_uncommitted: bool) -> None:
        """Wake the readers that have something new to read."""
        for reader in self.reading:
            if tp in reader._positions and not (only_uncommitted and reader._isolation == "read_committed"):
                reader.news.notify_all()

    # ---- transactions

    def finish(self, transactional_id: str, state: Literal["committed", "aborted"]) -> None:
        """EndTxn: the decision is durable now, the markers follow."""
        transaction = self.open[transactional_id]
        if transaction.state != "open":
            return  # decided before; its markers are on their way
        transaction.state = state
        self.seen[state] += 1
        left = set(transaction.first)
        if not left:
            del self.open[transactional_id]
        for tp in transaction.first:
            slow = 10 if self.chance.random() < 0.05 else 1
            self.scheduler.after(self.chance.random() * self.marker_s * slow, self._marker(transaction, tp, left))

    def _marker(self, transaction: Transaction, tp: TopicPartition, left: set[TopicPartition]) -> Callable[[], None]:
        def arrive() -> None:
            partition = self.partition(tp)
            if partition.loses_marker:
                partition.loses_marker = False
                self.seen["markers lost"] += 1
            elif transaction in partition.open and transaction.state != "open":
                self.mark(partition, transaction, transaction.state)
            left.discard(tp)
            if not left and self.open.get(transaction.transactional_id) is transaction:
                del self.open[transaction.transactional_id]
            self.changed.notify_all()

        return arrive

    def abort_if_still_open(self, transaction: Transaction) -> None:
        """The coordinator's time-out."""
        if self.open.get(transaction.transactional_id) is transaction and transaction.state == "open":
            self.seen["transactions timed out"] += 1
            self.fence(transaction.transactional_id)

    def repeat_end(self, transactional_id: str, epoch: int) -> None:
        """A second copy of an EndTxn request arrives: it commits whatever this epoch has open now."""
        self.strays.pop(transactional_id, None)
        if self.epochs[transactional_id] == epoch and transactional_id in self.open:
            self.seen["torn transactions"] += self.open[transactional_id].state == "open"
            self.finish(transactional_id, "committed")

    def back(self) -> None:
        """The broker is there again."""
        self.away_since = None
        self.changed.notify_all()
        for reader in self.reading:
            reader.news.notify_all()

    # ---- what ends

    def committed(self, tp: TopicPartition) -> list[Record]:
        """Every record of `tp` that was ever committed, also those that retention has deleted."""
        partition = self.partition(tp)
        return self.archive.get(tp, []) + _committed(partition, 0, self.end(tp, "read_committed") - partition.start)

    def last_committed(self, tp: TopicPartition) -> int:
        """The offset after the last committed record that is left."""
        partition = self.partition(tp)
        for n in range(self.end(tp, "read_committed") - partition.start - 1, -1, -1):
            slot = partition.slots[n]
            if slot is not None and slot[1] not in partition.aborted:
                return partition.start + n + 1
        return 0

    def compact_partition(self, tp: TopicPartition, tombstones_before_ms: int) -> None:
        """Delete all but the last record of each key, and tombstones that are old enough. Offsets stay."""
        slots = self.partition(tp).slots
        last = {slot[0].key: n for n, slot in enumerate(slots) if slot is not None}
        for n, slot in enumerate(slots):
            if slot is not None:
                old = slot[0].value is None and slot[0].timestamp_ms < tombstones_before_ms
                if last[slot[0].key] != n or old:
                    slots[n] = None
                    self.seen["tombstones expired" if old else "records compacted"] += 1

    def expire(self, tp: TopicPartition, before_ms: int) -> None:
        """Retention: delete the oldest records, up to the first that is younger than `before_ms`, or open."""
        partition, count = self.partition(tp), 0
        stable = self.end(tp, "read_committed") - partition.start
        while count < stable and ((slot := partition.slots[count]) is None or slot[0].timestamp_ms < before_ms):
            count += 1
        if count:
            self.archive.setdefault(tp, []).extend(_committed(partition, 0, count))
            self.truncate(tp, partition.start + count)
            self.seen["slots expired"] += count


def _committed(partition: Partition, first: int, last: int) -> list[Record]:
    return [s[0] for s in partition.slots[first:last] if s is not None and s[1] not in partition.aborted]


class UnkindLog(MemoryLog):
    """`ledger.log.EventLog`, for tasks of a scheduler; outside any task it answers immediately, and always."""

    def __init__(self, scheduler: Scheduler, chance: random.Random, wall_ms: Callable[[], int]) -> None:
        super().__init__(wall_ms)
        self.state = self._state = UnkindState(scheduler, chance, wall_ms)

    def _answer(self) -> None:
        """A request and its reply are on their way. Raises `LogUnavailable`."""
        state = self.state
        if state.scheduler.current is not None:
            state.scheduler.step()
            if state.chance.random() < state.failing:
                raise LogUnavailable("no answer in time")

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        self._answer()
        return super().starts(partitions, timeout_s)

    def ends(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed", timeout_s: float = 5.0
    ) -> dict[TopicPartition, int]:
        self._answer()
        return super().ends(partitions, isolation, timeout_s)

    def reader(
        self,
        name: str,
        *,
        isolation: Isolation = "read_committed",
        eof: bool = False,
        max_wait_ms: int = 100,
        headers: bool = False,
    ) -> UnkindReader:
        return UnkindReader(self.state, name, isolation, eof, headers)

    def writer(self, transactional_id: str) -> UnkindWriter:
        return UnkindWriter(self.state, transactional_id)


class UnkindReader(MemoryReader):
    """Returns a part of what there is, after a while."""

    _state: UnkindState

    def __init__(self, state: UnkindState, name: str, isolation: Isolation, eof: bool, headers: bool) -> None:
        super().__init__(state, name, isolation, eof, headers)
        self.news = Condition(state.scheduler)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        super().assign(dict(sorted(positions.items())))  # whatever the order of the caller's sets: a seed is one run

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """May wait longer than `timeout_s`, as any thread may: idle writers cost less then."""
        state = self._state
        if state.chance.random() < 0.5:
            state.scheduler.step()
        if max_records > 2 and state.chance.random() < 0.3:
            max_records = state.chance.randint(1, 3)
        deadline = state.scheduler.monotonic() + timeout_s * IDLE
        while True:
            self._silent_since = state.away_since
            records, met_end = ([], False) if self._silent_since else self._take(max_records)
            wait_s = deadline - state.scheduler.monotonic()
            if records or met_end or wait_s <= 0 or state.scheduler.current is None:
                return records
            state.reading.append(self)
            try:
                self.news.wait(wait_s)
            finally:
                state.reading.remove(self)


class UnkindWriter(MemoryWriter):
    """Everything may happen between any two requests of a transaction."""

    _state: UnkindState

    def __init__(self, state: UnkindState, transactional_id: str) -> None:
        super().__init__(state, transactional_id)
        self._suspect: str | None = None

    def start(self, timeout_s: float) -> None:
        state = self._state
        state.scheduler.step()
        super().start(timeout_s)
        deadline = state.scheduler.monotonic() + timeout_s
        while self._id in state.open:  # CONCURRENT_TRANSACTIONS
            if state.scheduler.monotonic() > deadline:
                raise LogError(f"writer {self._id}: its predecessor's transaction does not end")
            state.changed.wait(0.1)
        state.scheduler.step()

    def trouble(self) -> str | None:
        return super().trouble() or self._suspect

    def transact(self, records: Sequence[NewRecord]) -> dict[TopicPartition, int]:
        if not records:
            raise ValueError("a transaction needs at least one record")
        for record in records:
            refuse_oversized(record)
        if self._dead is not None:
            raise self._discarded(Discard(f"writer {self._id} is in doubt: {self._dead}"))
        state = self._state
        deadline = state.scheduler.monotonic() + MARKERS_S
        while self._id in state.open:  # the markers of its last transaction
            self._require_epoch()
            if state.scheduler.monotonic() > deadline:
                raise self._discarded(Discard(f"writer {self._id}: its last transaction does not end"))
            state.changed.wait(0.02)
        self._require_epoch()
        transaction = state.open[self._id] = Transaction(self._id, state.epochs[self._id])
        state.scheduler.after(TRANSACTION_S, lambda: state.abort_if_still_open(transaction), awaited=False)
        return self._end(transaction, [self._append(record, transaction) for record in self._in_any_order(records)])

    def _in_any_order(self, records: Sequence[NewRecord]) -> list[NewRecord]:
        """Each partition has requests of its own, and any of them may come first."""
        by_tp: dict[tuple[str, int], list[NewRecord]] = {}
        for record in records:
            by_tp.setdefault((record.topic, record.partition), []).append(record)
        tps = list(by_tp)
        self._state.chance.shuffle(tps)
        return [record for tp in tps for record in by_tp[tp]]

    def _append(self, record: NewRecord, transaction: Transaction) -> Record:
        state = self._state
        if state.chance.random() < 0.3:
            state.scheduler.step()
        if transaction.first and state.strays.get(self._id) == transaction.epoch and state.chance.random() < 0.7:
            state.repeat_end(self._id, transaction.epoch)
        self._require_epoch()
        if transaction.state != "open" and state.fences:
            raise self._discarded(Discard(f"writer {self._id}: INVALID_TXN_STATE"))
        try:
            return state.append(record, transaction)
        except Rejected as exc:
            raise self._discarded(exc) from None
        except LogError as exc:
            raise self._discarded(Discard(f"writer {self._id}: {exc}")) from exc

    def _require_epoch(self) -> None:
        """Raises `Fenced`, or `Discard` while the broker is unreachable."""
        if self._state.away_since is not None:
            raise self._discarded(Discard(f"writer {self._id}: the log is unreachable"))
        if self._state.epochs[self._id] != self._epoch and self._state.fences:
            raise self._discarded(Fenced(f"writer {self._id} is fenced"))

    def _end(self, transaction: Transaction, stored: list[Record]) -> dict[TopicPartition, int]:
        state = self._state
        state.scheduler.step()
        self._require_epoch()
        fate = state.fates.pop(0) if state.fates else None
        if fate == "request lost":
            raise self._discarded(Discard(f"writer {self._id}: no answer to the commit, which was not done"))
        if self._id in state.open:
            state.finish(self._id, "committed")
        if fate == "repeated":
            state.strays[self._id] = transaction.epoch
            self._suspect = "the connection was lost after a request"
        state.scheduler.step()
        if fate == "reply lost":
            raise self._discarded(Discard(f"writer {self._id}: no answer to the commit, which was done"))
        return {TopicPartition(r.topic, r.partition): r.offset + 1 for r in stored}


class UnkindSender:
    """`ledger.log.Sender`: keeps the order of its records. `mishaps`: the share of them that something happens to."""

    def __init__(self, state: UnkindState, mishaps: Callable[[], float]) -> None:
        self._state, self._mishaps = state, mishaps
        self._last_us = 0
        self.closed = False

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        refuse_oversized(record)
        state, chance = self._state, self._state.chance
        happens = chance.choice(("lost", "unacknowledged", "twice", "late")) if chance.random() < self._mishaps() else ""
        state.seen[f"records {happens or 'sent'}"] += 1
        at_us = max(self._last_us, state.scheduler.now_us + chance.randrange(200, 3_000))
        if happens == "late":
            at_us += chance.randrange(2_000_000)
        else:
            self._last_us = at_us
        self._schedule(at_us, lambda: self._arrive(record, on_ack, happens))

    def _schedule(self, at_us: int, action: Callable[[], None]) -> None:
        self._state.scheduler.after((at_us - self._state.scheduler.now_us) / 1_000_000, action)

    def _arrive(self, record: NewRecord, on_ack: OnAck, happens: str) -> None:
        state, acked, error = self._state, None, None
        if state.away_since is not None or happens == "lost":
            error = LogUnavailable("no answer in time")
        else:
            stored = state.append(record, None)
            acked = Acked(stored.partition, stored.offset, stored.timestamp_ms)
            if happens == "twice":
                state.scheduler.after(state.chance.random() * 3, lambda: self._repeat(record))
            if happens == "unacknowledged":
                acked, error = None, LogUnavailable("no answer in time")
        if not self.closed:
            on_ack(acked, error)

    def _repeat(self, record: NewRecord) -> None:
        if self._state.away_since is None:
            self._state.append(record, None)

    def flush(self, timeout_s: float) -> int:
        return 0

    def close(self) -> None:
        """Acknowledgements go nowhere from here on; records that are on their way still arrive."""
        self.closed = True
