"""The EventLog port: what the ledger needs of a log, in words an adapter can be tested against.

Two adapters keep this contract and pass the same tests (`tests/contract/test_event_log.py`): `kafka_log.KafkaLog` and
`memory_log.MemoryLog`.

The contract
    * A topic has partitions; a partition is a sequence of records with rising offsets. Offsets may have gaps (transaction
      markers, aborted records): positions are compared, never counted. A position is the *next* offset to read.
    * A transaction puts records into several partitions at once: a read_committed reader sees all of them or none, and never
      one that was aborted. Readers never see past the first record of an open transaction of their partition.
    * `Writer.start` fences every older writer with the same transactional id and ends its open transaction. From then on
      the committed end of every partition that only this id writes is final until this writer writes.
    * `Writer.transact` either returns the positions after its records (they are committed), or raises `Discard`: then the
      outcome is unknown, the writer is dead and only a new writer's fold of the log tells the truth.
    * `Sender.send` is idempotent against its own retries and calls back exactly once: with an offset (durable on all in-sync
      replicas) or an error (it may still be durable).

All calls block and are for worker threads; `Sender.send` alone may be called from an event loop (it does not wait).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from ledger.errors import EncodeError, LogError, TopicMismatch
from ledger.topics import MAX_RECORD_BYTES, TopicSpec

Headers = tuple[tuple[str, bytes], ...]

Isolation = Literal["read_committed", "read_uncommitted"]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """A record as read. `timestamp_ms` is log-append or create time, as the topic says; `value` None is a tombstone.

    `headers` is () unless the reader was made with `headers=True`.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class NewRecord(NamedTuple):
    """A record to write. `timestamp_ms` 0 leaves the time to the log; headers are (name, value) pairs."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: Headers = ()


class OpenTransaction(NamedTuple):
    """A transaction that has records in `partition` and no end there: what lies behind `start_offset` is not committed.

    `transactional_id` is None when no coordinator knows the producer any more. `state` is the coordinator's word for what that
    id does now (`Ongoing`, `PrepareCommit`, `CompleteAbort`, ...; empty when it has none), `timeout_ms` after how long it gives
    up by itself. `known`: that transaction is this one, so the coordinator will end it here. A transaction that is not known
    hangs: nothing ends it but a marker from outside.
    """

    partition: TopicPartition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    start_offset: int
    last_timestamp_ms: int  # of its newest record
    transactional_id: str | None
    state: str
    timeout_ms: int
    known: bool

    def __str__(self) -> str:
        place = f"{self.partition.topic}/{self.partition.partition}"
        owner = "of a producer nobody knows" if self.transactional_id is None else f"of {self.transactional_id}"
        return f"{place} from offset {self.start_offset}, {owner} (producer {self.producer_id}, epoch {self.producer_epoch})"


class Acked(NamedTuple):
    """Where a sent record landed."""

    partition: int
    offset: int
    timestamp_ms: int


class Reader(Protocol):
    """One hand-assigned reader; no group. Not thread-safe but for `close` after the owner stopped polling."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these positions on; replaces any earlier assignment."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Wait up to `timeout_s` for the first record, then take what has arrived, at most `max_records`.

        Returns [] on a time-out, or earlier when an end was met (`eof=True`). Records of one partition come in order. A log that
        is away is waited for: see `silent_s`. Raises `LogError` for what does not pass (`Hole` when a position is not in the
        log), after everything read before it was returned.
        """

    def reached_end(self) -> Mapping[TopicPartition, int]:
        """Position of the end last met in every partition that met one since `assign` (reader made with `eof=True`).

        The end is the one `ends` of the reader's isolation tells; everything before it has been returned by `poll`.
        """

    def silent_s(self) -> float:
        """How long ago the log was last known to answer for every assigned partition, in seconds.

        Known as of the last `poll`, to about a second: below 2 while all is well, growing while a broker is away. What was read
        so far is then this stale at most.
        """

    def close(self) -> None: ...


class Writer(Protocol):
    """A transactional writer: one transactional id, one transaction at a time, used by one thread."""

    def start(self, timeout_s: float) -> None:
        """Fence the predecessor and end its transaction. Raises `LogError` when it cannot be done in time."""

    def trouble(self) -> str | None:
        """What made this writer suspect, if anything: call between transactions.

        Until the first transaction trouble is forgotten: nothing that could come late was asked for, but to be fenced.
        """

    def transact(self, records: Sequence[NewRecord]) -> Mapping[TopicPartition, int]:
        """Commit `records` (at least one) as one transaction; positions after the last record of each partition.

        Every record names its partition. Raises `Discard` (or `Fenced`) when anything but plain success was seen: never retried
        by the caller, and this writer takes nothing more; `Rejected` when the log refuses one of the records as such.

        Raises `EncodeError` before anything is written when a record is
        larger than `MAX_RECORD_BYTES`; that alone does no harm to the writer.
        """

    def close(self) -> None:
        """Let go at once, without a word to the log: an open transaction is ended by the next `start` of this id."""


OnAck = Callable[[Acked | None, LogError | None], None]


class Sender(Protocol):
    """Idempotent `acks=all` producer of single records."""

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        """Hand over `record` and return at once; `on_ack(acked, error)` runs once, on the sender's own thread.

        Raises `LogUnavailable` when the local queue is full, `EncodeError` when the record is larger than `MAX_RECORD_BYTES`;
        `on_ack` is then not called. `on_ack` may call `send` again.
        """

    def flush(self, timeout_s: float) -> int:
        """Wait until everything sent is called back; returns how many records are still without an answer."""

    def close(self) -> None:
        """Wait for what was sent (up to the time-out of a record, 9 s), call everything back, stop."""


class Lease(Protocol):
    """Which writers this process should be: a share in the group over `order-writers` (one partition per writer)."""

    def poll(self, timeout_s: float) -> None:
        """Let the group talk; callbacks run inside this call, and what they raise comes out of it.

        Raises `LogError` when the lease can never work again. To be called at least every 30 s, or the group takes the lease.
        """

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Note, for lag monitors only, how far commands were dealt with. Never waits, never fails the caller.

        To be called by the thread that polls.
        """

    def rejoin(self) -> None:
        """Give up everything and join as a new member, which makes the group assign everything again.

        Takes the session time-out (6 s) at most: that long the old membership is waited for. A group that cannot be joined just
        now is joined by a later `poll`. Raises `LogError`.
        """

    def close(self) -> None:
        """End the membership. A static member keeps its share until the session time-out, for the same instance to come back."""


# A log may forget a position that nobody wrote for a week (Kafka: `offsets.retention.minutes`), and a shop may be closed longer.
NOTE_AGAIN_S = 3600.0


class Bookmark(Protocol):
    """How far one reader got, kept by the log under the name of a group that has no members. For one thread."""

    def read(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The positions written last; None where none ever was. Raises `LogError`."""

    def write(self, positions: Mapping[TopicPartition, int]) -> None:
        """Returns once the log has them. Raises `LogError`. The log may forget them after a week without a write."""

    def close(self) -> None: ...


class EventLog(Protocol):
    """A cluster, as the ledger uses it."""

    def ensure_topics(self, specs: Iterable[TopicSpec], timeout_s: float = 30.0) -> list[str]:
        """Create what is missing, return the names created; on return every partition has a leader.

        Several processes may do this at once. Raises `TopicMismatch` naming the first difference found.
        """

    def check_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Compare without creating anything. Raises `TopicMismatch`, or `LogError` when a topic is missing."""

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises `LogUnavailable`, or `LogError` when there is no such topic."""

    def topic_id(self, topic: str) -> bytes:
        """The log's own 16-byte id of this incarnation of `topic`: another one after delete and create."""

    def partition_for(self, key: bytes, partitions: int) -> int:
        """The partition of `key` by `murmur2_random`, as Java's default partitioner. Same in every adapter."""

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        """First offset still kept of each partition."""

    def ends(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed", timeout_s: float = 5.0
    ) -> dict[TopicPartition, int]:
        """End of each partition: last stable offset (read_committed) or high watermark. Always asked afresh."""

    def offset_at(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        """First position whose record is not older than `timestamp_ms`; the committed end when there is none."""

    def progress(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """What `Lease.commit` noted for `group`: 0 where it noted nothing. Can be behind, never ahead."""

    def unheld(self, topic: str, group: str, timeout_s: float = 5.0) -> list[int]:
        """Partitions of `topic` that no member of `group` holds although the group is at rest. Raises `LogError`."""

    def open_transactions(self, partitions: Iterable[TopicPartition], timeout_s: float = 10.0) -> list[OpenTransaction]:
        """Transactions without an end in these partitions. One that is told to hang was there before and after its coordinator
        was asked about it. Raises `LogError`."""

    def end_transaction(self, open_one: OpenTransaction, commit: bool, timeout_s: float = 10.0) -> None:
        """Write the marker that ends `open_one` in its partition; without effect when it has ended. Whether it should be ended
        is for the caller to know. Raises `LogError`, `NotAllowed` when the log does not let us."""

    def bookmark(self, group: str) -> Bookmark: ...

    def reader(
        self,
        name: str,
        *,
        isolation: Isolation = "read_committed",
        eof: bool = False,
        max_wait_ms: int = 100,
        headers: bool = False,
    ) -> Reader:
        """A reader; `max_wait_ms` bounds how long the log holds an empty answer back."""

    def writer(self, transactional_id: str) -> Writer: ...

    def sender(self, name: str, linger_ms: float = 0) -> Sender: ...

    def lease(
        self,
        topic: str,
        group: str,
        instance: str,
        on_taken: Callable[[list[int]], None],
        on_revoked: Callable[[list[int]], None],
        on_lost: Callable[[list[int]], None],
    ) -> Lease:
        """Join `group` (static membership as `instance`, session 6 s) over `topic`; callbacks get partition numbers."""


def refuse_oversized(record: NewRecord) -> None:
    """Raises `EncodeError` when key, value and headers of `record` together are larger than `MAX_RECORD_BYTES`.

    Every adapter asks before it writes: a broker's own refusal would come in the middle of a transaction, again and again.
    """
    size = len(record.key or b"") + len(record.value or b"") + sum(len(name) + len(value) for name, value in record.headers)
    if size > MAX_RECORD_BYTES:
        raise EncodeError(f"a record for {record.topic} has {size} bytes, the log takes {MAX_RECORD_BYTES}")


def compare_topic(spec: TopicSpec, partitions: int, settings: Mapping[str, str | None]) -> None:
    """Raises `TopicMismatch` naming the first of `spec`'s settings that the topic as found does not have."""
    if partitions != spec.partitions:
        raise TopicMismatch(f"topic {spec.name}: partitions: wanted {spec.partitions}, found {partitions}")
    for name, wanted in spec.settings.items():
        if settings.get(name) != wanted:
            raise TopicMismatch(f"topic {spec.name}: {name}: wanted {wanted}, found {settings.get(name)}")
