"""The EventLog port: the contract of a log, against which adapters are tested.

Two adapters keep this contract and pass the same tests (`tests/contract/test_event_log*.py`): `ledger.kafka.log.KafkaLog` and
`ledger.memory.log.MemoryLog`.

The contract
    * A topic has partitions; a partition is a sequence of records with rising offsets. Offsets may have gaps (transaction
      markers, aborted records): positions are compared, never counted. A position is the *next* offset to read.
    * A transaction puts records into several partitions atomically: a read_committed reader sees all of them or none, and never
      one that was aborted. Readers never see past the first record of an open transaction of their partition.
    * `Writer.start` fences every older writer with the same transactional id and ends its open transaction. From then on
      the committed end of every partition that only this id writes is final until this writer writes.
    * `Writer.transact` either returns the positions after its records, or raises `Discard`: then the outcome is unknown, the
      writer is dead, and only the log shows what was committed. What it returned is committed, but readers see it only when the
      markers of the transaction are written, usually milliseconds later: until then, the committed end is below the position.
    * `Sender.send` is idempotent against its own retries and calls back exactly once: with an offset (durable on all in-sync
      replicas) or an error (it may still be durable).

All calls block and are meant for worker threads; only `Sender.send` may be called from an event loop (it does not wait).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from ledger.durability import Durability
from ledger.errors import EncodeError, LogError, LogUnavailable, TopicMismatch
from ledger.topics import MAX_RECORD_BYTES, TopicSpec

Headers = tuple[tuple[str, bytes], ...]

Isolation = Literal["read_committed", "read_uncommitted"]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class NoLeader(LogUnavailable):
    """Some of the partitions, `missing`, have no leader now. The log can be asked about the others."""

    def __init__(self, missing: Iterable[TopicPartition]) -> None:
        self.missing = frozenset(missing)
        super().__init__(f"no broker leads {', '.join(f'{tp.topic}/{tp.partition}' for tp in sorted(self.missing))}")


class Record(NamedTuple):
    """A record as read. `timestamp_ms` is log-append or create time, depending on the topic; `value` None is a tombstone.

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
    """A record to write. `timestamp_ms` 0: the log sets the time. Headers are (name, value) pairs."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: Headers = ()


class OpenTransaction(NamedTuple):
    """A transaction with records in `partition` but no end there: nothing from `start_offset` on is committed.

    `transactional_id` is None if no coordinator knows the producer any more, or this user may not describe the id
    (`EventLog.hidden_ids`). `state` is the coordinator's current state of that
    id (`Ongoing`, `PrepareCommit`, `CompleteAbort`, ...; empty if it has none), `timeout_ms` the time after which it ends the
    transaction by itself. `known`: the coordinator's transaction is this one, so it will end it here. An unknown transaction
    hangs: only a marker from outside ends it.
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
        owner = "of an unknown producer" if self.transactional_id is None else f"of {self.transactional_id}"
        return f"{place} from offset {self.start_offset}, {owner} (producer {self.producer_id}, epoch {self.producer_epoch})"


class Acked(NamedTuple):
    """Position of a sent record.

    `timestamp_ms` can be some ms later than the record's own in the log: Kafka answers a record that had to be sent twice with
    the time of the second one (seen on 4.4 with a broker that was killed or stopped).
    """

    partition: int
    offset: int
    timestamp_ms: int


class Reader(Protocol):
    """A manually assigned reader without a group. Not thread-safe, except `close` after the owner stopped polling."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these positions; replaces any earlier assignment."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Wait up to `timeout_s` for the first record, then take what has arrived, at most `max_records`.

        Returns [] on a time-out, or earlier at an end (`eof=True`). Records of one partition come in order. Waits for an
        unreachable log: see `silent_s`. Raises `LogError` for permanent errors (`Hole` if a position is not in the log), after
        everything read before was returned.
        """

    def reached_end(self) -> Mapping[TopicPartition, int]:
        """The last end reached in each partition since `assign` (reader created with `eof=True`).

        The end is that of `ends` for the reader's isolation; `poll` has returned everything before it.
        """

    def silent_s(self, any_leader: bool = False) -> float:
        """How long ago the log was last known to answer for every assigned partition, or with `any_leader` for one, in seconds.

        Updated by `poll`, to about a second: below 2 normally, growing while a broker is unreachable. What has been read is at
        most this stale.
        """

    def close(self) -> None: ...


class Writer(Protocol):
    """A transactional writer: one transactional id, one transaction at a time, used by one thread."""

    def start(self, timeout_s: float) -> None:
        """Fence the predecessor and end its transaction. Raises `LogError` if that takes too long."""

    def trouble(self) -> str | None:
        """Why this writer is suspect, if it is. Call it between transactions.

        Before the first transaction, trouble is ignored: no request was made that could arrive late, except to be fenced.
        """

    def transact(self, records: Sequence[NewRecord]) -> Mapping[TopicPartition, int]:
        """Commit `records` (at least one) as one transaction. Returns the position after the last record of each partition.

        Every record names its partition. Raises `Discard` (or `Fenced`) for anything but plain success: the caller must not
        retry, and this writer accepts nothing more; `Rejected` if the log rejects one of the records because of its content.

        Raises `EncodeError` before anything is written when a record is
        larger than `MAX_RECORD_BYTES`; that alone does no harm to the writer.
        """

    def close(self) -> None:
        """Close immediately, without contacting the log: the next `start` of this id ends an open transaction."""


OnAck = Callable[[Acked | None, LogError | None], None]


class Sender(Protocol):
    """Idempotent `acks=all` producer of single records.

    A record is there at most once while no record of this sender fails. When one times out, librdkafka continues with a new
    producer epoch, and records that were under way, also to other partitions, may be there twice (confluentinc/librdkafka,
    issue 4953). Whatever reads them must not mind: commands have keys, contacts and audit records have ids.
    """

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        """Queue `record` and return immediately; `on_ack(acked, error)` runs once, on the sender's own thread.

        Raises `LogUnavailable` when the local queue is full, `EncodeError` when the record is larger than `MAX_RECORD_BYTES`;
        `on_ack` is then not called. `on_ack` may call `send` again.
        """

    def flush(self, timeout_s: float) -> int:
        """Wait until all sent records are answered; returns the number of unanswered records."""

    def close(self) -> None:
        """Wait for answers (up to the time-out of a record, 9 s), run all callbacks, stop."""


class Lease(Protocol):
    """The writers that this process should run: a membership in the group over `order-writers` (one partition per writer)."""

    def poll(self, timeout_s: float) -> None:
        """Serve the group protocol; callbacks run inside this call, and their exceptions are passed on.

        Raises `LogError` if the lease can never work again. Call it at least every 30 s, or the group revokes the lease.
        """

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Note how far commands are processed, only for lag monitors. Never blocks, never fails.

        Call it on the polling thread.
        """

    def rejoin(self) -> None:
        """Release everything and join as a new member, which makes the group reassign everything.

        Takes at most the session time-out (6 s), the wait for the old membership to end. If the group cannot be joined now, a
        later `poll` joins it. Raises `LogError`.
        """

    def close(self) -> None:
        """End the membership. The share of a static member is reserved until the session time-out, for the same instance."""


# A log may forget a position that was not written for a week (Kafka: `offsets.retention.minutes`); a shop may close for longer.
NOTE_AGAIN_S = 3600.0


class Bookmark(Protocol):
    """Position of one reader, stored by the log under a group without members. For one thread."""

    def read(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The last written positions; None if there is none. Raises `LogError`."""

    def notes(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, str]:
        """The note that was written beside each position; empty if there is none. Raises `LogError`."""

    def write(self, positions: Mapping[TopicPartition, int], notes: Mapping[TopicPartition, str] | None = None) -> None:
        """Store positions, each with its note (at most 4,096 bytes; without one: an empty note).

        Returns when the log has them. Raises `LogError`. The log may forget them after a week.
        """

    def close(self) -> None: ...


class EventLog(Protocol):
    """A cluster."""

    def ensure_topics(self, specs: Iterable[TopicSpec], timeout_s: float = 30.0) -> list[str]:
        """Create missing topics, return their names. On return, every partition has a leader.

        Several processes may do this in parallel. Raises `TopicMismatch` naming the first difference found.
        """

    def check_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Compare without creating anything. Raises `TopicMismatch`, or `LogError` if a topic is missing."""

    def replace_topic(self, spec: TopicSpec, timeout_s: float = 30.0) -> None:
        """Delete a topic without records, if it exists, and create it as `spec` says, with another id and no history.

        What an operator set for that topic and `spec` does not mention stays as it was, such as `min.insync.replicas`.
        On return, every partition has a leader. Raises `LogError`, also if the topic has records.
        """

    def durability(self, topics: Iterable[str]) -> list[Durability]:
        """How `topics` are replicated, and what commits depend on besides. Raises `LogError` if a topic is missing."""

    def partitions(self, topic: str) -> int:
        """Number of partitions of `topic`. Raises `LogUnavailable`, or `LogError` if there is no such topic."""

    def topic_id(self, topic: str) -> bytes:
        """The log's 16-byte id of this incarnation of `topic`; it changes if the topic is deleted and created again."""

    def partition_for(self, key: bytes, partitions: int) -> int:
        """The partition of `key` by `murmur2_random`, like Java's default partitioner. The same in every adapter."""

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        """First offset still kept of each partition."""

    def ends(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed", timeout_s: float = 5.0
    ) -> dict[TopicPartition, int]:
        """End of each partition: last stable offset (read_committed) or high watermark. Never cached."""

    def offset_at(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        """First position whose record is not older than `timestamp_ms`; the committed end if there is none."""

    def progress(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The positions of `Lease.commit` for `group`, 0 if there are none. They may lag, but are never ahead."""

    def unheld(self, topic: str, group: str, timeout_s: float = 5.0) -> list[int]:
        """Partitions of `topic` that no member of `group` holds although the group is stable. Raises `LogError`."""

    def open_transactions(self, partitions: Iterable[TopicPartition], timeout_s: float = 10.0) -> list[OpenTransaction]:
        """Transactions without an end in these partitions. Raises `LogError`.

        A hanging one was open both before and after its coordinator was asked about it.
        """

    def hidden_ids(self, transactional_ids: Iterable[str], timeout_s: float = 10.0) -> list[str]:
        """Those of these ids that this user may not describe: no transaction of theirs is `known`. Raises `LogError`."""

    def end_transaction(self, open_one: OpenTransaction, commit: bool, timeout_s: float = 10.0) -> None:
        """Write the marker that ends `open_one` in its partition; no effect if it has ended.

        The caller must know whether to end it. Raises `LogError`, `NotAllowed` if the log denies it.
        """

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
        """A reader; `max_wait_ms` limits how long the log delays an empty answer."""

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
        """Join `group` (static membership as `instance`, session 6 s) over `topic`; callbacks receive partition numbers.

        `on_taken` also receives none, if the group has no share for this member.
        """


def refuse_oversized(record: NewRecord) -> None:
    """Raises `EncodeError` if key, value and headers of `record` together exceed `MAX_RECORD_BYTES`.

    Every adapter calls it before writing: the broker would reject the record in the middle of a transaction, again and again.
    """
    size = len(record.key or b"") + len(record.value or b"") + sum(len(name) + len(value) for name, value in record.headers)
    if size > MAX_RECORD_BYTES:
        raise EncodeError(f"a record for {record.topic} has {size} bytes, the limit is {MAX_RECORD_BYTES}")


def compare_topic(spec: TopicSpec, partitions: int, settings: Mapping[str, str | None]) -> None:
    """Raises `TopicMismatch` naming the first setting of `spec` that the topic does not have."""
    if partitions != spec.partitions:
        raise TopicMismatch(f"topic {spec.name}: partitions: wanted {spec.partitions}, found {partitions}")
    for name, wanted in spec.settings.items():
        if settings.get(name) != wanted:
            raise TopicMismatch(f"topic {spec.name}: {name}: wanted {wanted}, found {settings.get(name)}")
