"""Reader, writer and sender of an in-memory log."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from ledger.errors import Discard, Fenced, Hole, LogError, LogUnavailable, Rejected
from ledger.log import Acked, Isolation, NewRecord, OnAck, Record, TopicPartition, refuse_oversized
from ledger.memory.state import State, Transaction
from ledger.supervision import WorkerThread

COMMIT_TIMEOUT_S = 10.0


class MemoryReader:
    """`ledger.log.Reader` on a MemoryLog."""

    def __init__(self, state: State, name: str, isolation: Isolation, eof: bool, headers: bool) -> None:
        self._state, self._name, self._isolation, self._eof, self._headers = state, name, isolation, eof, headers
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._silent_since: float | None = None

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._state.changed:
            self._positions, self._ends = dict(positions), {}

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        with self._state.changed:
            while True:
                self._silent_since = self._state.away_since
                records, met_end = ([], False) if self._silent_since else self._take(max_records)
                wait_s = deadline - time.monotonic()
                if records or met_end or wait_s <= 0:
                    return records
                self._state.changed.wait(wait_s)

    def _take(self, max_records: int) -> tuple[list[Record], bool]:
        """Available records, and whether an end was reached. Raises `Hole` if a failure comes first."""
        records: list[Record] = []
        met_end = False
        for tp in list(self._positions):
            position, partition = self._positions[tp], self._state.partition(tp)
            if not partition.start <= position <= partition.end:
                if records:
                    break
                raise Hole(f"reader {self._name}: {tp} has {partition.start}..{partition.end}, not {position}")
            end = self._state.end(tp, self._isolation)
            while position < end and len(records) < max_records:
                slot = partition.slots[position - partition.start]
                position += 1
                if slot is not None and (self._isolation == "read_uncommitted" or slot[1] not in partition.aborted):
                    records.append(slot[0] if self._headers else slot[0]._replace(headers=()))
            # the partition read last goes to the back of the queue, so that no partition starves another
            del self._positions[tp]
            self._positions[tp] = position
            if self._eof and position >= end and self._ends.get(tp) != position:
                self._ends[tp] = position
                met_end = True
        return records, met_end

    def reached_end(self) -> Mapping[TopicPartition, int]:
        return dict(self._ends)

    def silent_s(self, any_leader: bool = False) -> float:
        return time.monotonic() - self._silent_since if self._silent_since is not None else 0.0

    def close(self) -> None:
        self._positions = {}


class MemoryWriter:
    """`ledger.log.Writer` on a MemoryLog."""

    def __init__(self, state: State, transactional_id: str) -> None:
        self._state, self._id = state, transactional_id
        self._epoch: int | None = None
        self._dead: str | None = None

    def start(self, timeout_s: float) -> None:
        if self._epoch is not None:
            raise LogError(f"writer {self._id} was already started: use a new one")
        with self._state.reachable():
            if not self._state.wait_for_markers(self._id, timeout_s):
                raise LogUnavailable(f"starting writer {self._id}: the markers of its last transaction are not written yet")
            self._epoch = self._state.fence(self._id)

    def trouble(self) -> str | None:
        if self._epoch is None:
            return "it was not started"
        return self._dead

    def transact(self, records: Sequence[NewRecord]) -> dict[TopicPartition, int]:
        if not records:
            raise ValueError("a transaction needs at least one record")
        for record in records:
            refuse_oversized(record)
        with self._state.changed:
            trouble = self.trouble()
            if trouble:
                raise self._discarded(Discard(f"writer {self._id} is in doubt: {trouble}"))
            if not self._state.wait_for_markers(self._id, COMMIT_TIMEOUT_S):
                raise self._discarded(Discard(f"writer {self._id}: the markers of its last transaction are not written yet"))
            if self._state.epochs[self._id] != self._epoch:
                raise self._discarded(Fenced(f"writer {self._id} is fenced"))
            if self._state.away_since is not None:
                raise self._discarded(Discard(f"writer {self._id}: the log is unreachable"))
            return self._commit(records)

    def _commit(self, records: Sequence[NewRecord]) -> dict[TopicPartition, int]:
        transaction = self._state.open[self._id] = Transaction(self._id, self._state.epochs[self._id])
        fail, self._state.fail_next_commit = self._state.fail_next_commit, None
        try:
            stored = [self._state.append(record, transaction) for record in records]
        except Rejected as exc:
            raise self._discarded(exc) from None
        except LogError as exc:
            raise self._discarded(Discard(f"writer {self._id}: {exc}")) from exc
        if fail == "before":
            raise self._discarded(Discard(f"writer {self._id}: no answer to the commit, which was not done"))
        self._state.finish(self._id, "committed")
        if fail == "after":
            raise self._discarded(Discard(f"writer {self._id}: no answer to the commit, which was done"))
        return {TopicPartition(r.topic, r.partition): r.offset + 1 for r in stored}

    def _discarded(self, error: Discard) -> Discard:
        self._dead = str(error)
        return error

    def close(self) -> None:
        self._dead = self._dead or "it was closed"


class MemorySender:
    """`ledger.log.Sender` on a MemoryLog: one thread takes the records in order and calls back."""

    LIMIT = 20_000

    def __init__(self, state: State, name: str) -> None:
        self._state, self._name = state, name
        self._queue: deque[tuple[NewRecord, OnAck]] = deque()
        self._unanswered = 0
        self._closing = False
        self._bug: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = WorkerThread(f"sender {name}", self._serve, self._stopped, again=True)
        self._thread.start()

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        refuse_oversized(record)
        with self._changed:
            if self._closing:
                raise LogError(f"sender {self._name} is closed")
            if self._bug is not None:
                raise LogError(f"sender {self._name} stopped: an on_ack raised {self._bug!r}") from self._bug
            if len(self._queue) >= self.LIMIT:
                raise LogUnavailable(f"{self.LIMIT} records are waiting in sender {self._name}")
            self._queue.append((record, on_ack))
            self._unanswered += 1
            self._changed.notify_all()

    def _stopped(self, exc: BaseException) -> None:
        self._bug = exc

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                record, on_ack = self._queue.popleft()
            self._answer(record, on_ack)
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()

    def _answer(self, record: NewRecord, on_ack: OnAck) -> None:
        acked: Acked | None = None
        error: LogError | None = None
        try:
            with self._state.reachable():
                stored = self._state.append(record, None)
                acked = Acked(stored.partition, stored.offset, stored.timestamp_ms)
        except LogError as exc:
            error = exc
        try:
            on_ack(acked, error)
        except BaseException as exc:
            self._bug = exc  # raised by the next send; the other callbacks still run

    def flush(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._unanswered and (wait_s := deadline - time.monotonic()) > 0:
                self._changed.wait(wait_s)
            return self._unanswered

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()


class MemoryBookmark:
    """`ledger.log.Bookmark`; `kept` belongs to the log."""

    def __init__(self, state: State, kept: dict[TopicPartition, tuple[int, str]]) -> None:
        self._state, self._kept = state, kept

    def read(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        with self._state.reachable():
            return {tp: self._kept[tp][0] if tp in self._kept else None for tp in partitions}

    def notes(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, str]:
        with self._state.reachable():
            return {tp: self._kept[tp][1] if tp in self._kept else "" for tp in partitions}

    def write(self, positions: Mapping[TopicPartition, int], notes: Mapping[TopicPartition, str] | None = None) -> None:
        beside = notes or {}
        with self._state.reachable():
            self._kept.update({tp: (position, beside.get(tp, "")) for tp, position in positions.items()})

    def close(self) -> None:
        pass
